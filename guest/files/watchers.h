// SPDX-License-Identifier: Apache-2.0
/*
 * The calls of filesystem.Filesystem that watch directories: WatchDir streams changes, CreateWatcher
 * collects them until GetWatcherEvents asks. Each function is the begin() of a route. The loop's
 * thread. A stream's watch ends with its client, a collecting one with RemoveWatcher.
 */
#ifndef GUEST_FILES_WATCHERS_H
#define GUEST_FILES_WATCHERS_H

#include "guest/http.h"

void watchers_watch_dir(struct exchange *ex);
void watchers_create(struct exchange *ex);
void watchers_get_events(struct exchange *ex);
void watchers_remove(struct exchange *ex);

#endif
