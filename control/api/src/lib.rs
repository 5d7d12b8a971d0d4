// SPDX-License-Identifier: Apache-2.0
//! Control protocol of podswitch: objects, requests, replies and a blocking client.
