// SPDX-License-Identifier: Apache-2.0
//! Byte layouts: checked views of protocol headers, checksums, and the flow key.
#![forbid(unsafe_code)]
