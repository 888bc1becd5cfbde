/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device tests of the guest "devices": each has an open, a round that several CPUs may run at
 * once, and a line of counts.
 */
#ifndef TESTS_GUESTS_DEVICES_H
#define TESTS_GUESTS_DEVICES_H

#include "virtio.h"

#define DEVS_MAX 8

struct plan { /* from the command line, constant after start */
	unsigned n_cpus;
	bool irq;
	unsigned batches; /* of requests per device and round */
};
extern struct plan plan;

/* A new vector when interrupts are on, else 0. */
unsigned plan_vector(void);

struct blk;
struct net;

struct blk *blk_open(struct virtio *v);
void blk_round(struct blk *b, unsigned cpu, uint64_t *random);
void blk_speed(struct blk *b);
/* Resets the device; another blk_open() takes over what this one had. */
void blk_close(struct blk *b);

struct net *net_open(struct virtio *v);
void net_round(struct net *n, unsigned cpu, uint64_t *random);
void net_speed(struct net *n);
void net_close(struct net *n);

void rng_open(struct virtio *v);
void rng_round(unsigned cpu);

/* Option ged=0 (the address of ACPI's event register): says when the power button was pressed. */
void button_open(void);
void button_round(unsigned cpu);

/* Option vmgenid=0 (1: looks for the generation id): says each one that it sees. */
void vmgenid_open(void);
void vmgenid_round(unsigned cpu);

/* Option hotplug=0 (the address of ACPI's PCI hot-plug registers): looks there between rounds. eject=0: keeps what is to go. */
void hotplug_open(void);
void hotplug_round(void);
/* For it: drives the device in that slot from now on; lets go of it. */
void device_came(unsigned slot);
void device_goes(unsigned slot);

/* Option balloon=4: MiB of pages that it may give; strict=1: what comes back must be zero. */
void balloon_open(struct virtio *v);
void balloon_round(unsigned cpu, uint64_t *random);

void vsock_open(struct virtio *v);
void vsock_close(void);
void vsock_round(unsigned cpu, uint64_t *random);
/* Answers streams of the host. */
void vsock_serve(void);

void console_open(struct virtio *v);
void console_write(const char *text, size_t bytes);
/* Sends back what the host typed so far. */
void console_echo(void);
/* Until that many bytes were echoed since the start. */
void console_wait(uint64_t bytes);

/* Sorts and returns the median. */
uint32_t median(uint32_t *values, unsigned n);

#endif
