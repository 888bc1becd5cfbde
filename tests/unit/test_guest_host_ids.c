// SPDX-License-Identifier: Apache-2.0
/* guest/host_ids and guest/ssh_keys: names, ids and what DHCP clients remember. */
#include "guest/host_ids.h"

#include "guest/put_file.h"
#include "guest/ssh_keys.h"
#include "tests/unit/guest_root.h"
#include "tests/unit/unit.h"

#include <sched.h>

static struct err err;

static void expect(const char *path, const char *text)
{
	char got[512];

	if (get_text(root.fd, path, got, sizeof(got)) < 0)
		fail_msg("%s cannot be read", path);
	assert_string_equal(got, text);
}

static void put(const char *path, const char *text)
{
	assert_int_equal(put_text(root.fd, path, text, &err), 0);
}

static bool is_there(const char *path)
{
	return faccessat(root.fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void good_names(void **state)
{
	static const char *const good[] = { "a", "a-b.c", "1", "A.B-2",
					    "abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcd" };
	static const char *const bad[] = { "",
					   "-a",
					   "a-",
					   ".a",
					   "a.",
					   "a..b",
					   "a_b",
					   "a b",
					   "a\n",
					   "ä",
					   "a.-b",
					   "a/b",
					   "abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcde" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		if (!hostname_is_good(good[i]))
			fail_msg("'%s' was refused", good[i]);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (hostname_is_good(bad[i]))
			fail_msg("'%s' was taken", bad[i]);
	assert_true(machine_id_is_good("0123456789abcdef0123456789abcdef"));
	assert_false(machine_id_is_good("0123456789abcdef0123456789abcde"));
	assert_false(machine_id_is_good("0123456789ABCDEF0123456789abcdef"));
	assert_false(machine_id_is_good("00000000000000000000000000000000"));
}

static void hostname(void **state)
{
	char name[65] = "";

	(void)state;
	if (unshare(CLONE_NEWUTS) < 0)
		skip();
	assert_int_equal(sethostname("old", 3), 0);
	assert_int_equal(hostname_set(root.fd, "new", &err), 0);
	assert_int_equal(gethostname(name, sizeof(name)), 0);
	assert_string_equal(name, "new");
	assert_false(is_there("etc/hostname")); /* a system without the file gets none */
	assert_false(is_there("etc/hosts"));

	put("/etc/hostname", "new\n");
	put("/etc/hosts", "127.0.0.1\tlocalhost new\n127.0.1.1  new.example new # new\n\n10.0.0.1 new\n::1 newer new");
	assert_int_equal(hostname_set(root.fd, "clone-7", &err), 0);
	expect("/etc/hostname", "clone-7\n");
	expect("/etc/hosts", "127.0.0.1\tlocalhost clone-7\n127.0.1.1  new.example clone-7 # clone-7\n\n10.0.0.1 new\n"
			     "::1 newer clone-7");
}

static void machine_id(void **state)
{
	static const char id[] = "0123456789abcdef0123456789abcdef";
	char first[40], second[40];

	(void)state;
	assert_int_equal(machine_id_set(root.fd, NULL, &err), 0);
	assert_false(is_there("etc/machine-id")); /* a system without one gets none */
	assert_int_equal(machine_id_set(root.fd, id, &err), 0);
	expect("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
	assert_false(is_there("var/lib/dbus/machine-id"));

	put("/var/lib/dbus/machine-id", "old\n");
	assert_int_equal(machine_id_set(root.fd, NULL, &err), 0);
	assert_int_equal(get_text(root.fd, "/etc/machine-id", first, sizeof(first)), 33);
	expect("/var/lib/dbus/machine-id", first);
	assert_int_equal(machine_id_set(root.fd, NULL, &err), 0);
	assert_int_equal(get_text(root.fd, "/etc/machine-id", second, sizeof(second)), 33);
	assert_string_not_equal(first, second);

	/* Where it is a link, it stays one. */
	assert_int_equal(unlinkat(root.fd, "var/lib/dbus/machine-id", 0), 0);
	assert_int_equal(symlinkat("../../../etc/machine-id", root.fd, "var/lib/dbus/machine-id"), 0);
	assert_int_equal(machine_id_set(root.fd, id, &err), 0);
	assert_true(readlinkat(root.fd, "var/lib/dbus/machine-id", first, sizeof(first)) > 0);
}

static void dhcp(void **state)
{
	static const char *const gone[] = { "/run/systemd/netif/leases/2",
					    "/var/lib/dhcp/dhclient.eth0.leases",
					    "/var/lib/dhcpcd/eth0.lease",
					    "/etc/dhcpcd.duid",
					    "/var/lib/NetworkManager/internal-1-eth0.lease",
					    "/var/lib/NetworkManager/secret_key" };
	static const char *const stays[] = { "/etc/dhcpcd.conf", "/var/lib/dhcp/other",
					     "/var/lib/NetworkManager/NetworkManager.state" };

	(void)state;
	assert_int_equal(dhcp_identity_drop(root.fd, &err), 0); /* there is no client */
	for (size_t i = 0; i < ARRAY_LEN(gone); i++)
		put(gone[i], "x");
	for (size_t i = 0; i < ARRAY_LEN(stays); i++)
		put(stays[i], "x");
	assert_int_equal(dhcp_identity_drop(root.fd, &err), 0);
	for (size_t i = 0; i < ARRAY_LEN(gone); i++)
		if (is_there(gone[i] + 1))
			fail_msg("%s is still there", gone[i]);
	for (size_t i = 0; i < ARRAY_LEN(stays); i++)
		expect(stays[i], "x");
}

static void ssh_keys(void **state)
{
	(void)state;
	assert_false(ssh_has_host_keys(root.fd));
	put("/etc/ssh/ssh_config", "x");
	put("/etc/ssh/ssh_host_key_policy", "x");
	assert_false(ssh_has_host_keys(root.fd));
	put("/etc/ssh/ssh_host_rsa_key", "old");
	put("/etc/ssh/ssh_host_rsa_key.pub", "old");
	assert_true(ssh_has_host_keys(root.fd));
	/* Without a new key the old ones stay: a server with none would be shut out. */
	assert_int_equal(ssh_host_keys_take(root.fd, &err), -ENOENT);
	expect("/etc/ssh/ssh_host_rsa_key", "old");
	put(SSH_NEW_KEY, "new");
	put(SSH_NEW_KEY ".pub", "new.pub");
	assert_int_equal(ssh_host_keys_take(root.fd, &err), 0);
	assert_false(is_there("etc/ssh/ssh_host_rsa_key"));
	assert_false(is_there("etc/ssh/ssh_host_rsa_key.pub"));
	expect("/etc/ssh/ssh_host_ed25519_key", "new");
	expect("/etc/ssh/ssh_host_ed25519_key.pub", "new.pub");
	expect("/etc/ssh/ssh_host_key_policy", "x");
	assert_int_equal(root_count("etc/ssh"), 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_names), ROOT_TEST(hostname), ROOT_TEST(machine_id), ROOT_TEST(dhcp),
		ROOT_TEST(ssh_keys),
	};

	return cmocka_run_group_tests_name("guest_host_ids", tests, NULL, NULL);
}
