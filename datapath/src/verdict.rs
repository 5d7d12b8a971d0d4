// SPDX-License-Identifier: Apache-2.0
//! What became of a frame: the one table behind counters, metrics and documentation.
#![forbid(unsafe_code)]

use crate::ids::PortId;

/// What a stage decided for a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Not decided yet: the next stage looks at it.
    Continue,
    /// Send out of this port, rewritten already.
    Forward(PortId),
    /// Send a copy out of every port of its L2 segment but the one it came from.
    Flood,
    /// The frame was turned into an answer for the port it came from (ARP, ND, ICMP).
    Reply,
    /// Count and free it.
    Drop(Reason),
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $help:literal;)*) => {
        /// Why a frame was dropped. Every drop has exactly one; the number is an index into counter arrays and
        /// is not stable between versions, the name is.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Reason { $(#[doc = $help] $name,)* }

        impl Reason {
            /// Every reason, in counter order.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Stable snake_case name, as counters, metrics and events print it.
            pub fn name(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// One sentence for an operator: what happened and where to look.
            pub fn help(self) -> &'static str {
                match self { $(Reason::$name => $help,)* }
            }

            /// The reason with this stable name.
            pub fn from_name(name: &str) -> Option<Reason> {
                Self::ALL.iter().copied().find(|r| r.name() == name)
            }

            /// Index into counter arrays, below [`Reason::COUNT`].
            #[inline]
            pub fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for Reason {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

reasons! {
    // Parsing
    TruncatedEthernet = "truncated_ethernet", "The frame is shorter than an Ethernet header (14 bytes).";
    TruncatedVlan = "truncated_vlan", "The frame ends inside an IEEE 802.1Q tag.";
    VlanNotExpected = "vlan_not_expected", "A VLAN-tagged frame on a routed port, a frame of another VLAN than the uplink's, or a VLAN the L2 segment port is no member of.";
    VlanStackTooDeep = "vlan_stack_too_deep", "More VLAN tags than the switch reads (two).";
    EthertypeUnknown = "ethertype_unknown", "Neither IPv4, IPv6 nor ARP on a routed port.";
    SourceMacInvalid = "source_mac_invalid", "The source MAC address is zero, broadcast or multicast.";
    TruncatedIpv4 = "truncated_ipv4", "The frame ends inside the IPv4 header or before its total length.";
    BadIpv4Version = "bad_ipv4_version", "EtherType says IPv4, the version field does not.";
    BadIpv4HeaderLength = "bad_ipv4_header_length", "The IPv4 header length is below 20 bytes or beyond the total length.";
    BadIpv4Checksum = "bad_ipv4_checksum", "The IPv4 header checksum is wrong.";
    Ipv4SourceRoute = "ipv4_source_route", "The IPv4 header has a source route option (RFC 7126 section 4.3).";
    BadIpv4Options = "bad_ipv4_options", "The IPv4 options run past the header or have a length below 2.";
    TruncatedIpv6 = "truncated_ipv6", "The frame ends inside the IPv6 header or before its payload length.";
    BadIpv6Version = "bad_ipv6_version", "EtherType says IPv6, the version field does not.";
    BadIpv6Extension = "bad_ipv6_extension", "An IPv6 extension header runs past the packet, repeats where it must not, or the chain is longer than the switch reads.";
    Ipv6RoutingHeader = "ipv6_routing_header", "An IPv6 type 0 routing header (RFC 5095).";
    SourceAddressInvalid = "source_address_invalid", "The source address is multicast, broadcast, loopback or unspecified where it must not be.";
    DestinationAddressInvalid = "destination_address_invalid", "The destination address is loopback, unspecified or reserved.";
    TruncatedTransport = "truncated_transport", "The packet ends inside its TCP, UDP, SCTP or ICMP header.";
    BadTransportHeader = "bad_transport_header", "A TCP data offset below 5, or a UDP length that the packet does not hold.";
    BadFragment = "bad_fragment", "A fragment that overlaps the transport header (RFC 1858, RFC 5722) or ends beyond 65535 bytes.";
    FrameTooLong = "frame_too_long", "The frame has more segments than a port can carry.";
    // Anti-spoofing
    SpoofedMac = "spoofed_mac", "The source MAC address is not the port's own.";
    SpoofedAddress = "spoofed_address", "The source IP address (or ARP/ND sender) is not one of the port's own.";
    // Layer 2
    NotForUs = "not_for_us", "A unicast frame on a routed port to another MAC address than the gateway's.";
    MulticastNotRouted = "multicast_not_routed", "Multicast or broadcast on a routed port; it ends here.";
    NoSegment = "no_segment", "The L2 segment of the port has gone.";
    SamePort = "same_port", "The destination lives behind the port the frame came from.";
    LinkLocalControl = "link_local_control", "A frame to 01:80:C2:00:00:0x, which bridges do not forward (IEEE 802.1Q table 8-1).";
    UnknownUnicastLimit = "unknown_unicast_limit", "Unknown-unicast flooding is off for the segment or over its limit.";
    BroadcastLimit = "broadcast_limit", "Broadcast or multicast flooding is over the segment's limit.";
    FdbMove = "fdb_move", "A frame from a MAC address that is fixed to another port.";
    // Routing
    NoRoute = "no_route", "No route for the destination; answered with ICMP where allowed.";
    RouteBlackhole = "route_blackhole", "The route is a blackhole: dropped silently.";
    RouteUnreachable = "route_unreachable", "The route is unreachable: answered with ICMP host unreachable.";
    RouteProhibit = "route_prohibit", "The route is prohibit: answered with ICMP administratively prohibited.";
    NeighborUnresolved = "neighbor_unresolved", "No neighbor entry for the next hop.";
    TtlExceeded = "ttl_exceeded", "TTL or hop limit ran out; answered with ICMP time exceeded.";
    PacketTooBig = "packet_too_big", "Larger than the MTU of the way out and may not be fragmented; answered with ICMP too big.";
    LinkLocalNotRouted = "link_local_not_routed", "An IPv6 packet from or to a link-local address that would leave its link (RFC 4291 section 2.5.6).";
    GatewayUnhandled = "gateway_unhandled", "A packet to the gateway's own address that is neither ARP, ND nor echo.";
    ArpUnanswered = "arp_unanswered", "An ARP packet that asks for nothing the switch answers (duplicate address detection, replies, other addresses).";
    NdUnanswered = "nd_unanswered", "A neighbor discovery packet that the switch does not answer.";
    // Tunnels
    TunnelUnknown = "tunnel_unknown", "A packet to a tunnel's UDP port with a network identifier (VNI) of no tunnel of this node, or to another address than the tunnel's.";
    TunnelHeaderInvalid = "tunnel_header_invalid", "A packet to a tunnel's UDP port without a VXLAN header that has a network identifier (RFC 7348 section 5).";
    TunnelPeerUnknown = "tunnel_peer_unknown", "A tunnelled packet from an address that is no neighbor on the tunnel's port.";
    TunnelFragment = "tunnel_fragment", "A fragment of a tunnelled packet: the underlay's MTU is below what the other end believes (RFC 7348 section 4.3).";
    TunnelCongestion = "tunnel_congestion", "A tunnelled packet met congestion, and the packet inside cannot tell its ends (RFC 6040 section 4.2).";
    TunnelNoSource = "tunnel_no_source", "No address of this node for the tunnel's outer packets: the way to the other end leads by no uplink with an address of its family.";
    TunnelPathMtu = "tunnel_path_mtu", "An ICMP error from the way to a tunnel's other end, which says how large its packets may be: that is noted (RFC 1191, RFC 8201), and the error goes no further.";
    BadUdpChecksum = "bad_udp_checksum", "The UDP checksum of a tunnelled packet is there and wrong.";
    // Policy
    PolicyDeniedEgress = "policy_denied_egress", "An egress rule or policy of the sending port denies it.";
    PolicyDeniedIngress = "policy_denied_ingress", "An ingress rule or policy of the receiving port denies it.";
    PolicyIsolatedEgress = "policy_isolated_egress", "Network policies isolate the sending pod's egress, and none of their rules allows it.";
    PolicyIsolatedIngress = "policy_isolated_ingress", "Network policies isolate the receiving pod's ingress, and none of their rules allows it.";
    PolicyPending = "policy_pending", "The sending or receiving pod is closed until its labels and policies are here.";
    PolicyDefaultEgress = "policy_default_egress", "No egress rule of the sending port matches and its default is deny.";
    PolicyDefaultIngress = "policy_default_ingress", "No ingress rule of the receiving port matches and its default is deny.";
    // Connections
    NoConnection = "no_connection", "It belongs to no connection, opens none, and a network policy asks for one (a stray ACK or RST).";
    FragmentUnknown = "fragment_unknown", "A later fragment of a packet whose first fragment was not seen or not let on, and a network policy asks for its ports.";
    FlowTableFull = "flow_table_full", "A new connection that a network policy asks to be tracked, and the flow table is full.";
    FlowQuota = "flow_quota", "A new connection that a network policy asks to be tracked, and the port that opens it has its share of the flow table.";
    // Translation
    NatNoBinding = "nat_no_binding", "To a port of the node that is kept for masquerading, from a pod that is masqueraded, or to the address that stands for a pod which comes to itself, and it belongs to no such connection.";
    NatNoPort = "nat_no_port", "A new connection that is to be masqueraded, and every port that was tried is taken for its destination; reserve more.";
    NatNoAddress = "nat_no_address", "A new connection that is to be masqueraded, and the node has no address of its family on the uplink.";
    NatHairpin = "nat_hairpin", "From a pod to a port of the node that leads to that pod itself, by a source port from which the pod has reached the same port of its own otherwise: it would take both for one connection.";
    NatNotTranslatable = "nat_not_translatable", "It was to be masqueraded, and is neither TCP, UDP nor an ICMP query that a pod began, or a fragment of what is not known.";
    // Services
    ServiceNoBackend = "service_no_backend", "To a service that nobody serves at present; the sender is told.";
    ServiceNoPort = "service_no_port", "To the address of a service, by a port or protocol that no service has there; the sender is told.";
    ServiceNoLocalBackend = "service_no_local_backend", "To a service whose traffic of this kind stays on the node (internalTrafficPolicy, externalTrafficPolicy), and no backend is here.";
    ServiceSourceDenied = "service_source_denied", "To an address of a service whose clients are restricted (loadBalancerSourceRanges), and the sender is none of them.";
    ServiceClash = "service_clash", "A new connection to a service from a port from which the client talks to the only backend otherwise, or through another service: its answers could not be told apart.";
    ServiceUntranslatable = "service_untranslatable", "To a service, and the packet is a fragment or an error of what is not known, or of a protocol that is not translated.";
    // Ports, memory, rings
    PortGone = "port_gone", "The port was removed while the frame was on its way.";
    PortDown = "port_down", "The way out has no device: it could not be opened, or it failed.";
    TxQueueFull = "tx_queue_full", "The way out took no more frames this turn and its backlog is full.";
    TxLinkError = "tx_link_error", "The kernel refused the transmit descriptor or dropped the frame at the device.";
    QueueDisabled = "queue_disabled", "A packet that was in a virtqueue which its frontend had disabled.";
    NoMemory = "no_memory", "No free chunk for a copy or a reply.";
    HandoffFull = "handoff_full", "The ring to the worker of the way out is full, or the port has its share of it.";
    FaultInjected = "fault_injected", "A fault-injecting port dropped it on purpose.";
    // The kernel's own drops on our ports, read from its statistics; not counted by a worker
    KernelRxRingFull = "kernel_rx_ring_full", "AF_XDP: the receive ring was full (XDP_STATISTICS rx_ring_full).";
    KernelFillRingEmpty = "kernel_fill_ring_empty", "AF_XDP: no free chunk in the fill ring (XDP_STATISTICS rx_fill_ring_empty_descs).";
    KernelRxDropped = "kernel_rx_dropped", "AF_XDP: dropped for another cause, such as a frame too large (XDP_STATISTICS rx_dropped).";
    KernelTxInvalid = "kernel_tx_invalid", "AF_XDP: invalid transmit descriptor (XDP_STATISTICS tx_invalid_descs).";
    KernelTapFull = "kernel_tap_full", "As many frames as the port's tap device holds waited to be read: the worker was too slow.";
    KernelSteeringMiss = "kernel_steering_miss", "The steering program had no socket for the queue: the switch was not there.";
    KernelBarrier = "kernel_barrier", "The traffic-control drop behind the steering program took it: XDP was not attached.";
    KernelDeviceDropped = "kernel_device_dropped", "The device dropped it (veth: peer ring full or frame over the MTU).";
    KernelBacklog = "kernel_backlog", "The node's receive backlog was full (softnet_stat); node-wide.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_round_trip() {
        let names: HashSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::COUNT);
        for (i, r) in Reason::ALL.iter().enumerate() {
            assert_eq!(r.index(), i);
            assert_eq!(Reason::from_name(r.name()), Some(*r));
        }
        assert_eq!(Reason::from_name("nothing"), None);
    }
}
