// SPDX-License-Identifier: Apache-2.0
/*
 * The event monitor (--event-monitor) writes what happened to the VM to a descriptor, as
 * pretty-printed JSON objects in Cloud Hypervisor's format. The monitor is process-wide, like the
 * log, because every layer has events. Without a descriptor nothing is written. Any thread.
 */
#ifndef VMM_CORE_EVENT_MONITOR_H
#define VMM_CORE_EVENT_MONITOR_H

/*
 * The call is time zero of the events. The descriptor becomes non-blocking and stays open; -1: no
 * monitor.
 */
void event_monitor_init(int fd);
/* The event's properties are one key with a string value; key NULL: the event has none. */
void event_emit(const char *source, const char *event, const char *key, const char *value);
/* The event's properties are the device's id and where the device is or was ("0000:00:03.0"). */
void event_emit_device(const char *event, const char *id, const char *bdf);

#endif
