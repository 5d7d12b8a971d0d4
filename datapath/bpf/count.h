/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What all steering programs have: counters, and the tag beside a frame. */
#ifndef PODSWITCH_BPF_COUNT_H
#define PODSWITCH_BPF_COUNT_H

#include "abi.h"

/* Packets handed to the switch; dropped for want of it; left to the host's stack, where the program does that. */
enum { REDIRECTED, MISSED, PASSED, COUNTERS };

/* Packets, one u64 per counter and CPU. */
struct {
	UINT(type, MAP_PERCPU_ARRAY);
	TYPE(key, u32);
	TYPE(value, u64);
	UINT(max_entries, COUNTERS);
} podswitch_count SEC(".maps");

/* Counts a packet. */
INLINE void count_one(u32 which)
{
	u64 *count = map_lookup(&podswitch_count, &which);

	if (count)
		*count += 1;
}

/* A VLAN tag that the sender left to its device, or the hardware took out of the frame. */
struct tag {
	/* Whether there is one that the kernel tells of. */
	int beside;
	/* As in the frame: network byte order. */
	u16 protocol;
	/* In host byte order. */
	u16 tci;
};

#endif
