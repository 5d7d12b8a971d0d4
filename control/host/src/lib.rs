// SPDX-License-Identifier: Apache-2.0
//! Linux interfaces podswitch needs: netlink, network namespaces, sysctl, ethtool.
