// SPDX-License-Identifier: Apache-2.0
/* vmm/event_monitor: the bytes of an event, and that a reader which does not read never blocks. */
#include "vmm/core/event_monitor.h"

#include <fcntl.h>
#include <stdio.h>

#include "tests/unit/unit.h"

/* Reads what is in the pipe and puts 0 for both numbers of the timestamp. */
static void expect(int fd, const char *expected)
{
	char got[1024], text[1024];
	long long secs = -1;
	long nanos = -1;
	int at = 0;

	ssize_t n = read(fd, got, sizeof(got) - 1);
	assert_true(n > 0);
	got[n] = '\0';
	assert_int_equal(
		sscanf(got, "{\n  \"timestamp\": {\n    \"secs\": %lld,\n    \"nanos\": %ld%n", &secs, &nanos, &at), 2);
	assert_true(secs >= 0 && nanos >= 0 && nanos < 1000000000);
	snprintf(text, sizeof(text), "{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"nanos\": 0%s", got + at);
	assert_string_equal(text, expected);
}

static void events(void **state)
{
	int fds[2];

	(void)state;
	event_emit("vmm", "nobody listens", NULL, NULL);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	event_monitor_init(fds[1]);
	event_emit("vmm", "starting", NULL, NULL);
	expect(fds[0], "{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"nanos\": 0\n  },\n  \"source\": \"vmm\",\n"
		       "  \"event\": \"starting\",\n  \"properties\": null\n}\n\n");
	event_emit("virtio-device", "activated", "id", "_net\"1");
	expect(fds[0],
	       "{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"nanos\": 0\n  },\n  \"source\": \"virtio-device\",\n"
	       "  \"event\": \"activated\",\n  \"properties\": {\n    \"id\": \"_net\\\"1\"\n  }\n}\n\n");
	event_emit_device("device-removed", "d\\", "0000:00:03.0");
	expect(fds[0], "{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"nanos\": 0\n  },\n  \"source\": \"vm\",\n"
		       "  \"event\": \"device-removed\",\n  \"properties\": {\n    \"id\": \"d\\\\\",\n"
		       "    \"bdf\": \"0000:00:03.0\"\n  }\n}\n\n");
	for (int i = 0; i < 10000; i++) /* far more than a pipe holds */
		event_emit("vm", "pausing", NULL, NULL);
	event_monitor_init(-1);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(events) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
