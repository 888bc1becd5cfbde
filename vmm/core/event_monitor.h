// SPDX-License-Identifier: Apache-2.0
/*
 * The event monitor (--event-monitor): what happened to the VM, as pretty-printed JSON objects on a descriptor, in
 * Cloud Hypervisor's format. Process-wide, like the log, because every layer has events; without a descriptor nothing
 * is written. Safe from every thread.
 */
#ifndef VMM_CORE_EVENT_MONITOR_H
#define VMM_CORE_EVENT_MONITOR_H

/* Time zero is the call. The descriptor is made non-blocking and stays open; -1: no monitor. */
void event_monitor_init(int fd);
/* Properties: one key with a string value, or NULL, NULL. */
void event_emit(const char *source, const char *event, const char *key, const char *value);
/* Properties: what this device is called, and where it is or was ("0000:00:03.0"). */
void event_emit_device(const char *event, const char *id, const char *bdf);

#endif
