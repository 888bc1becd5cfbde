// SPDX-License-Identifier: Apache-2.0
/* vmm/cmdline: argv to struct cmdline, and every refusal with its sentence and exit code. */
#include "vmm/config/cmdline.h"

#include "tests/unit/unit.h"

enum { MAX_WORDS = 50 };

/* Words are separated by single blanks. */
static int parse(const char *text, struct cmdline *cl, struct err *err)
{
	autofree char *copy = strdup(text);
	char *argv[MAX_WORDS + 2] = { copy }, *rest = copy; /* argv[0] is not looked at */
	int argc = 1;

	for (char *word; (word = strsep(&rest, " ")) && argc <= MAX_WORDS;)
		argv[argc++] = word;
	return cmdline_parse(argc, argv, cl, err);
}

#define autocmdline __attribute__((cleanup(cmdline_free)))

static void must_parse(const char *text, struct cmdline *cl)
{
	struct err err = {};

	if (parse(text, cl, &err) < 0)
		fail_msg("%s: %s", text, err.msg);
}

static void boot(void **state)
{
	autocmdline struct cmdline cl = {};

	(void)state;
	must_parse(
		"--kernel K --initramfs=I --cmdline a=b --cpus boot=3 --memory size=1G,mergeable=on "
		"--disk path=a path=b,readonly=on --net tap=t0 --disk path=c --net fd=[3,4],num_queues=4 tap=t1 "
		"--rng src=/dev/random --balloon size=64M,deflate_on_oom=on --platform vmgenid=on --serial file=/s --console off --debug-console off --api-socket path=/api "
		"--event-monitor fd=9 --log-file /log -v -vv --seccomp false",
		&cl);
	assert_int_equal(cl.action, CMDLINE_RUN);
	assert_true(cl.has_vm && !cl.has_restore);
	assert_string_equal(cl.config.payload->kernel, "K");
	assert_string_equal(cl.config.payload->initramfs, "I");
	assert_string_equal(cl.config.payload->cmdline, "a=b");
	assert_int_equal(cl.config.cpus.boot_vcpus, 3);
	assert_int_equal(cl.config.cpus.max_vcpus, 3);
	assert_true(cl.config.memory.size == 1 << 30 && cl.config.memory.mergeable);
	assert_int_equal(cl.config.n_disks, 3);
	assert_string_equal(cl.config.disks[2].path, "c");
	assert_true(cl.config.disks[1].readonly && !cl.config.disks[2].readonly);
	assert_int_equal(cl.config.n_net, 3);
	assert_string_equal(cl.config.net[2].tap, "t1");
	assert_int_equal(cl.config.net[1].fds[1], 4);
	assert_string_equal(cl.config.rng.src, "/dev/random");
	assert_true(cl.config.balloon && cl.config.balloon->size == 64 << 20);
	assert_true(cl.config.balloon->deflate_on_oom && !cl.config.balloon->free_page_reporting);
	assert_true(cl.config.platform && cl.config.platform->vmgenid && cl.config.platform->num_pci_segments == 1);
	assert_int_equal(cl.config.serial.mode, CONSOLE_FILE);
	assert_string_equal(cl.config.serial.file, "/s");
	assert_int_equal(cl.config.console.mode, CONSOLE_OFF);
	assert_string_equal(cl.api_socket.path, "/api");
	assert_true(cl.event_monitor.has_fd && cl.event_monitor.fd == 9);
	assert_string_equal(cl.log_file, "/log");
	assert_int_equal(cl.verbosity, 3);
	assert_int_equal(cl.seccomp, SECCOMP_FALSE);
}

static void defaults(void **state)
{
	autocmdline struct cmdline cl = {};
	struct err err = {};

	(void)state;
	must_parse("--kernel K", &cl);
	assert_int_equal(cl.config.cpus.boot_vcpus, 1);
	assert_int_equal(cl.config.cpus.max_vcpus, 1);
	assert_true(cl.config.memory.size == 512 << 20);
	assert_int_equal(cl.config.serial.mode, CONSOLE_NULL);
	assert_int_equal(cl.config.console.mode, CONSOLE_TTY);
	assert_string_equal(cl.config.rng.src, "/dev/urandom");
	assert_null(cl.config.balloon);
	assert_int_equal(cl.seccomp, SECCOMP_TRUE);
	assert_null(cl.api_socket.path);
	assert_false(cl.api_socket.has_fd);
	assert_null(cl.config.disks);
	assert_int_equal(vm_config_check(&cl.config, &err), 0);
}

static void consoles(void **state)
{
	static const struct {
		const char *text;
		int mode;
	} cases[] = {
		{ "--kernel K --serial off", CONSOLE_OFF },     { "--kernel K --serial null", CONSOLE_NULL },
		{ "--kernel K --serial pty", CONSOLE_PTY },     { "--kernel K --serial tty", CONSOLE_TTY },
		{ "--kernel K --serial file=f", CONSOLE_FILE }, { "--kernel K --serial socket=s", CONSOLE_SOCKET },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autocmdline struct cmdline cl = {};
		must_parse(cases[i].text, &cl);
		assert_int_equal(cl.config.serial.mode, cases[i].mode);
	}
}

static void api_socket(void **state)
{
	static const struct {
		const char *text, *path;
		int fd;
	} cases[] = {
		{ "--api-socket /x", "/x", -1 },      { "--api-socket path=/x", "/x", -1 },
		{ "--api-socket=path=/x", "/x", -1 }, { "--api-socket=/a,b", "/a,b", -1 },
		{ "--api-socket fd=7", NULL, 7 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autocmdline struct cmdline cl = {};
		must_parse(cases[i].text, &cl);
		assert_false(cl.has_vm || cl.has_restore);
		assert_int_equal(cl.api_socket.has_fd ? cl.api_socket.fd : -1, cases[i].fd);
		if (cases[i].path)
			assert_string_equal(cl.api_socket.path, cases[i].path);
		else
			assert_null(cl.api_socket.path);
	}
}

static void restore(void **state)
{
	static const char *const forms[] = {
		"--restore source_url=file:///s,net_fds=[net1@[23,24],net2@[25,26]],resume=true",
		"--restore source_url=file:///s,resume=true net_fds=[net1@[23,24],net2@[25,26]] --api-socket /x",
		"--restore net_fds=[net1@[23,24],net2@[25,26]] source_url=file:///s resume=on",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		autocmdline struct cmdline cl = {};
		must_parse(forms[i], &cl);
		assert_true(cl.has_restore && !cl.has_vm);
		assert_string_equal(cl.restore.source_url, "file:///s");
		assert_true(cl.restore.resume);
		assert_int_equal(cl.restore.memory_restore_mode, RESTORE_COPYONWRITE);
		assert_int_equal(cl.restore.n_net_fds, 2);
		assert_int_equal(cl.restore.net_fds[1].num_fds, 2);
		assert_int_equal(cl.restore.net_fds[1].fds[1], 26);
	}
}

static void restore_modes(void **state)
{
	static const struct {
		const char *text;
		int mode, clock;
	} cases[] = {
		{ "--restore source_url=file:///s", RESTORE_COPYONWRITE, CLOCK_ADVANCE },
		{ "--restore source_url=file:///s,prefault=on", RESTORE_COPY, CLOCK_ADVANCE },
		{ "--restore source_url=file:///s,memory_restore_mode=copy", RESTORE_COPY, CLOCK_ADVANCE },
		{ "--restore source_url=file:///s,memory_restore_mode=ondemand", RESTORE_ONDEMAND, CLOCK_ADVANCE },
		{ "--restore source_url=file:///s,memory_restore_mode=CopyOnWrite", RESTORE_COPYONWRITE,
		  CLOCK_ADVANCE },
		{ "--restore source_url=file:///s,clock=advance", RESTORE_COPYONWRITE, CLOCK_ADVANCE },
		{ "--restore source_url=file:///s,clock=continue", RESTORE_COPYONWRITE, CLOCK_CONTINUE },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autocmdline struct cmdline cl = {};
		must_parse(cases[i].text, &cl);
		assert_int_equal(cl.restore.memory_restore_mode, cases[i].mode);
		assert_int_equal(cl.restore.clock, cases[i].clock);
	}
}

static void actions(void **state)
{
	static const struct {
		const char *text;
		int action;
	} cases[] = {
		{ "-V", CMDLINE_VERSION },  { "--version", CMDLINE_VERSION },
		{ "-vV", CMDLINE_VERSION }, { "-h", CMDLINE_HELP },
		{ "--help", CMDLINE_HELP }, { "--kernel K --restore x --help", CMDLINE_HELP },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autocmdline struct cmdline cl = {};
		must_parse(cases[i].text, &cl);
		assert_int_equal(cl.action, cases[i].action);
	}
}

static void rejects(void **state)
{
	static const struct {
		const char *text;
		int exit_code;
		const char *msg;
	} cases[] = {
		{ "--frob", 2, "unexpected argument '--frob' found" },
		{ "--frob=1", 2, "unexpected argument '--frob' found" },
		{ "--", 2, "unexpected argument '--' found" },
		{ "-", 2, "unexpected argument '-' found" },
		{ "-x", 2, "unexpected argument '-x' found" },
		{ "kernel", 2, "unexpected argument 'kernel' found" },
		{ "--kern K", 2, "unexpected argument '--kern' found" },
		{ "--kernel K extra", 2, "unexpected argument 'extra' found" },
		{ "--kernel", 2, "a value is required for '--kernel' but none was supplied" },
		{ "--kernel --cpus boot=1", 2, "a value is required for '--kernel' but none was supplied" },
		{ "--kernel K --disk", 2, "a value is required for '--disk' but none was supplied" },
		{ "--kernel K --kernel L", 2, "the argument '--kernel' cannot be used multiple times" },
		{ "--help=1", 2, "'--help' takes no value" },
		{ "-v", 2, "nothing to do: give '--kernel', '--restore' or '--api-socket'" },
		{ "--cpus boot=1", 2, "'--cpus' needs '--kernel'" },
		{ "--api-socket /x --disk path=a", 2, "'--disk' needs '--kernel'" },
		{ "--restore source_url=file:///s --kernel K", 2,
		  "'--kernel' cannot be used with '--restore': the snapshot says what the machine is" },
		{ "--restore source_url=file:///s --cpus boot=1", 2,
		  "'--cpus' cannot be used with '--restore': the snapshot says what the machine is" },
		{ "--memory-zone id=a", 2, "'--memory-zone' of Cloud Hypervisor is not supported by this program" },
		{ "--firmware=F", 2, "'--firmware' of Cloud Hypervisor is not supported by this program" },
		{ "--kernel K --watchdog", 2, "'--watchdog' of Cloud Hypervisor is not supported by this program" },
		{ "--kernel K --pmem file=s", 2, "'--pmem' of Cloud Hypervisor is not supported by this program" },
		{ "--kernel K --vsock cid=3", 1, "Error parsing config\nError parsing --vsock\nsocket missing" },
		{ "--kernel K --vsock socket=s", 1, "Error parsing config\nError parsing --vsock\ncid missing" },
		{ "--kernel K --vsock cid=x,socket=s", 1,
		  "Error parsing config\nError parsing --vsock\nUnable to convert x for cid" },
		{ "--kernel \xff", 2, "argument 2 is not valid UTF-8" },
		{ "--kernel K --balloon foo=1", 1,
		  "Error parsing config\nError parsing --balloon\nUnknown option: foo" },
		{ "--kernel K --balloon size=1 --balloon size=2", 2,
		  "the argument '--balloon' cannot be used multiple times" },
		{ "--kernel K --cpus foo=1", 1, "Error parsing config\nError parsing --cpus\nUnknown option: foo" },
		{ "--kernel K --disk path=a path=b,bw_size=1", 1,
		  "Error parsing config\nError parsing --disk\nbw_size: not supported by this program" },
		{ "--kernel K --serial loud", 1, "Error parsing config\nError parsing --serial\nUnknown option: loud" },
		{ "--kernel K --console iommu=off", 1,
		  "Error parsing config\nError parsing --console\nInvalid console mode given" },
		{ "--kernel K --debug-console iobase=1", 1,
		  "Error parsing config\nError parsing --debug-console\nUnknown option: iobase" },
		{ "--kernel K --memory size=1", 1,
		  "Error parsing config\nError validating configuration\nmemory size 1 is not a positive multiple of 4096" },
		{ "--restore resume=on", 1, "Error parsing restore\nError parsing --restore\nsource_url is missing" },
		{ "--restore source_url=file:///s,net_fds=[a@[2]]", 1,
		  "Error parsing restore\nError parsing --restore\nReserved fd number (<= 2): 2" },
		{ "--restore source_url=file:///s,net_fds=[a@[3,4],b@[5,3]]", 1,
		  "Error parsing restore\nError parsing --restore\ndescriptor 3 is given twice" },
		{ "--restore source_url=file:///s,net_fds=[a@[3,3]]", 1,
		  "Error parsing restore\nError parsing --restore\ndescriptor 3 is given twice" },
		{ "--api-socket=", 1, "Error parsing --api-socket\none of path and fd is needed" },
		{ "--api-socket path=a,fd=3", 1, "Error parsing --api-socket\none of path and fd is needed" },
		{ "--api-socket fd=x", 1, "Error parsing --api-socket\nUnable to convert x for fd" },
		{ "--api-socket /x --event-monitor /y", 1, "Error parsing --event-monitor\nUnknown option: /y" },
		{ "--api-socket /x --seccomp maybe", 1, "Error parsing --seccomp\nUnknown option: maybe" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autocmdline struct cmdline cl = {};
		struct err err = {};
		if (parse(cases[i].text, &cl, &err) == 0)
			fail_msg("'%s' was accepted", cases[i].text);
		assert_string_equal(err.msg, cases[i].msg);
		assert_int_equal(cl.exit_code, cases[i].exit_code);
	}
}

/* Every option is in the help. */
static void help(void **state)
{
	static const char *const names[] = { "--kernel", "--restore", "--api-socket", "--event-monitor",
					     "-V, --version" };
	autofree char *text = NULL;
	size_t size = 0;

	(void)state;
	FILE *out = open_memstream(&text, &size);
	assert_non_null(out);
	cmdline_help(out);
	fclose(out);
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		assert_non_null(strstr(text, names[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(boot),       cmocka_unit_test(defaults), cmocka_unit_test(consoles),
		cmocka_unit_test(api_socket), cmocka_unit_test(restore),  cmocka_unit_test(restore_modes),
		cmocka_unit_test(actions),    cmocka_unit_test(rejects),  cmocka_unit_test(help),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
