// SPDX-License-Identifier: Apache-2.0
//! Configuration, desired-state store and teardown shared by podswitchd and podswitchctl.
