// SPDX-License-Identifier: Apache-2.0
/* All routes of the API. A service adds its rows, and declares its functions in a header of its own. */
#include "guest/routes.h"

#include "guest/files/files.h"
#include "guest/files/filesystem.h"
#include "guest/files/watchers.h"
#include "guest/process/process.h"

#define FILESYSTEM "/filesystem.Filesystem/"
#define PROCESS "/process.Process/"

static void health(struct exchange *ex)
{
	ex_answer(ex, 204, NULL, NULL, 0);
}

const struct route api_routes[] = {
	{ "GET", "/health", BODY_NONE, STYLE_PLAIN, 0, health },
	{ "POST", PROCESS "Start", BODY_WHOLE, STYLE_STREAM, 0, process_call_start },
	{ "POST", PROCESS "Connect", BODY_WHOLE, STYLE_STREAM, 0, process_call_connect },
	{ "POST", PROCESS "List", BODY_WHOLE, STYLE_UNARY, 0, process_call_list },
	{ "POST", PROCESS "SendInput", BODY_WHOLE, STYLE_UNARY, 0, process_send_input },
	{ "POST", PROCESS "StreamInput", BODY_STREAM, STYLE_STREAM, 0, process_stream_input },
	{ "POST", PROCESS "CloseStdin", BODY_WHOLE, STYLE_UNARY, 0, process_call_close_stdin },
	{ "POST", PROCESS "SendSignal", BODY_WHOLE, STYLE_UNARY, 0, process_call_signal },
	{ "POST", PROCESS "Update", BODY_WHOLE, STYLE_UNARY, 0, process_call_update },
	{ "GET", "/files", BODY_NONE, STYLE_PLAIN, 0, files_get },
	{ "POST", "/files", BODY_STREAM, STYLE_PLAIN, 0, files_post },
	{ "POST", FILESYSTEM "Stat", BODY_WHOLE, STYLE_UNARY, 0, filesystem_stat },
	{ "POST", FILESYSTEM "ListDir", BODY_WHOLE, STYLE_UNARY, 0, filesystem_list_dir },
	{ "POST", FILESYSTEM "MakeDir", BODY_WHOLE, STYLE_UNARY, 0, filesystem_make_dir },
	{ "POST", FILESYSTEM "Move", BODY_WHOLE, STYLE_UNARY, 0, filesystem_move },
	{ "POST", FILESYSTEM "Remove", BODY_WHOLE, STYLE_UNARY, 0, filesystem_remove },
	{ "POST", FILESYSTEM "WatchDir", BODY_WHOLE, STYLE_STREAM, 0, watchers_watch_dir },
	{ "POST", FILESYSTEM "CreateWatcher", BODY_WHOLE, STYLE_UNARY, 0, watchers_create },
	{ "POST", FILESYSTEM "GetWatcherEvents", BODY_WHOLE, STYLE_UNARY, 0, watchers_get_events },
	{ "POST", FILESYSTEM "RemoveWatcher", BODY_WHOLE, STYLE_UNARY, 0, watchers_remove },
	{},
};
