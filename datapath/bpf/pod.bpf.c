/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Steers every frame that arrives on the host end of a pod's veth to the AF_XDP socket of its queue, with its VLAN tag in
 * it. Without a socket (the switch is down, starting, or gave the port up) the frame is dropped and counted: a pod never
 * reaches the host's own stack through this program. */
#include "steer.h"

SEC("xdp.frags")
int podswitch_pod(struct xdp_md *ctx)
{
	struct tag tag = read_tag(ctx);

	return counted(steer(ctx, &tag));
}

char podswitch_license[] SEC("license") = "Dual BSD/GPL";
