// SPDX-License-Identifier: Apache-2.0
/* vmm/tap, what needs no network: descriptors that are no taps. */
#include "vmm/virtio/tap.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>

static void bad_descriptors(void **state)
{
	autoclose int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	char id[] = "net1", text[128];
	int fds[TAP_QUEUES_MAX];
	struct err err = {};

	(void)state;
	struct net_config cfg = { .id = id, .num_queues = 2, .fds = (int32_t[]){ null }, .n_fds = 1 };
	assert_int_equal(tap_open(&cfg, fds, &err), -EINVAL);
	snprintf(text, sizeof(text),
		 "Error from device manager\nCannot create virtio-net device\nnet 'net1'\ndescriptor %d is not a tap",
		 null);
	assert_string_equal(err.msg, text);
	assert_true(fcntl(null, F_GETFD) >= 0); /* stays the configuration's */
	cfg.fds[0] = -1;
	assert_int_equal(tap_open(&cfg, fds, &err), -EINVAL);
	assert_string_equal(
		err.msg,
		"Error from device manager\nCannot create virtio-net device\nnet 'net1'\na descriptor of it is missing");
	for (unsigned i = 0; i < TAP_QUEUES_MAX; i++)
		assert_int_equal(fds[i], -1);
	cfg.num_queues = 2 * TAP_QUEUES_MAX + 2;
	assert_int_equal(tap_open(&cfg, fds, &err), -EINVAL);
	assert_string_equal(err.msg, "net 'net1': 33 queue pairs are more than 32");
	char name[] = "a-name-of-16-chr";
	cfg = (struct net_config){ .id = id, .num_queues = 2, .tap = name };
	assert_int_equal(tap_open(&cfg, fds, &err), -EINVAL);
	assert_string_equal(
		err.msg,
		"Error from device manager\nCannot create virtio-net device\nnet 'net1'\ntap name 'a-name-of-16-chr' is longer than 15 characters");
	assert_int_equal(tap_mtu(null), 1500);
	uint8_t mac[MAC_BYTES];
	assert_false(tap_mac(null, mac));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(bad_descriptors) };

	return cmocka_run_group_tests_name("tap", tests, NULL, NULL);
}
