// SPDX-License-Identifier: Apache-2.0
/* forkd/options: the command line, the configuration file, which one wins, and what a mistake is called. */
#include "forkd/options.h"

#include <sys/stat.h>

#include "tests/unit/unit.h"

enum { ARGS_MAX = 24 };

static char file[] = "/tmp/forkd-test-options-XXXXXX";

static int parse(const char *line, struct forkd_options *opt, struct err *err)
{
	char copy[512], *argv[ARGS_MAX] = { copy }, *rest = copy, *word;
	int argc = 1;

	snprintf(copy, sizeof(copy), "%s", line);
	argv[0] = (char *)(uintptr_t) "forkd";
	while ((word = strsep(&rest, " ")))
		if (*word)
			argv[argc++] = word;
	*opt = (struct forkd_options){};
	*err = (struct err){};
	return options_parse(argc, argv, opt, err);
}

static void write_file(const char *text)
{
	FILE *f = fopen(file, "we");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static int make_file(void **state)
{
	(void)state;
	int fd = mkstemp(file);
	setenv("PATH", "/nowhere", 1);
	return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
	(void)state;
	return unlink(file);
}

static void takes_all(void **state)
{
	struct forkd_options opt;
	struct err err;

	(void)state;
	assert_int_equal(
		parse("--socket /s --store=/st --runtime-dir /r --listen 127.0.0.1:1 --token-file /t --tls-cert /c "
		      "--tls-key=/k --vmm /v",
		      &opt, &err),
		0);
	assert_string_equal(opt.socket, "/s");
	assert_string_equal(opt.store, "/st");
	assert_string_equal(opt.runtime_dir, "/r");
	assert_string_equal(opt.listen, "127.0.0.1:1");
	assert_string_equal(opt.token_file, "/t");
	assert_string_equal(opt.tls_cert, "/c");
	assert_string_equal(opt.tls_key, "/k");
	assert_string_equal(opt.vmm, "/v");
	assert_false(opt.insecure_plain_http);
	options_done(&opt);
	assert_int_equal(
		parse("--vmm v --allow-path /a --allow-path=/b --socket-group kvm --memory-reserve 0 --log-level debug "
		      "--insecure-plain-http",
		      &opt, &err),
		0);
	assert_int_equal(opt.n_allow_paths, 2);
	assert_string_equal(opt.allow_paths[1], "/b");
	assert_string_equal(opt.socket_group, "kvm");
	assert_int_equal(opt.memory_reserve_mib, 0);
	assert_int_equal(opt.log_level, LOG_DEBUG);
	assert_true(opt.insecure_plain_http);
	options_done(&opt);
}

static void has_defaults(void **state)
{
	struct forkd_options opt;
	struct err err;

	(void)state;
	assert_int_equal(parse("--runtime-dir /r/t --store /s --vmm v", &opt, &err), 0);
	assert_string_equal(opt.socket, "/r/t/forkd.sock");
	assert_int_equal(opt.memory_reserve_mib, 256);
	assert_int_equal(opt.log_level, LOG_INFO);
	assert_null(opt.listen);
	options_done(&opt);
	options_done(&opt);
	if (geteuid() == 0) {
		assert_int_equal(parse("--vmm v", &opt, &err), 0);
		assert_string_equal(opt.runtime_dir, "/run/forkd");
		assert_string_equal(opt.store, "/var/lib/forkd");
		options_done(&opt);
	}
}

static void finds_the_vmm(void **state)
{
	static const char name[] = "/tmp/forkd-vmm";
	struct forkd_options opt;
	struct err err;

	(void)state;
	if (access(name, F_OK) == 0)
		skip();
	setenv("PATH", ":/nowhere:/tmp", 1);
	FILE *f = fopen(name, "we");
	assert_non_null(f);
	fclose(f);
	assert_true(parse("", &opt, &err) < 0); /* not executable */
	assert_string_equal(err.msg, "forkd-vmm is neither beside forkd nor in PATH: give --vmm");
	options_done(&opt);
	assert_int_equal(chmod(name, 0700), 0);
	assert_int_equal(parse("--store /s --runtime-dir /r", &opt, &err), 0);
	assert_string_equal(opt.vmm, name);
	options_done(&opt);
	unlink(name);
	setenv("PATH", "/nowhere", 1);
}

static void file_is_read(void **state)
{
	struct forkd_options opt;
	struct err err;
	char line[128];

	(void)state;
	write_file("# a comment\n\n  store = /from file \nsocket=/file.sock\n\tallow-path = /a\nallow-path = /b\n"
		   "vmm = /v\nlog-level = warn\ninsecure-plain-http = true\n#x\nmemory-reserve=7");
	snprintf(line, sizeof(line), "--config %s --socket /flag.sock --allow-path /c --runtime-dir /r", file);
	assert_int_equal(parse(line, &opt, &err), 0);
	assert_string_equal(opt.store, "/from file");
	assert_string_equal(opt.socket, "/flag.sock");
	assert_int_equal(opt.n_allow_paths, 3);
	assert_string_equal(opt.allow_paths[0], "/c");
	assert_int_equal(opt.log_level, LOG_WARN);
	assert_int_equal(opt.memory_reserve_mib, 7);
	assert_true(opt.insecure_plain_http);
	options_done(&opt);
}

static void mistakes_of_the_line(void **state)
{
	static const struct {
		const char *line, *msg;
	} cases[] = {
		{ "x", "unexpected argument 'x'" },
		{ "-s", "unexpected argument '-s'" },
		{ "--", "unknown option '--'" },
		{ "--sock /x", "unknown option '--sock'" },
		{ "--socket", "option '--socket' needs a value" },
		{ "--socket=", "--socket\nthe value is empty" },
		{ "--socket /a --socket /b", "option '--socket' is given twice" },
		{ "--help=1", "option '--help' takes no value" },
		{ "--insecure-plain-http=true", "option '--insecure-plain-http' takes no value" },
		{ "--memory-reserve -1", "--memory-reserve\n'-1' is no number of MiB" },
		{ "--memory-reserve 1G", "--memory-reserve\n'1G' is no number of MiB" },
		{ "--memory-reserve 4294967296", "--memory-reserve\n'4294967296' is no number of MiB" },
		{ "--log-level trace", "--log-level\n'trace' is none of error, warn, info, debug" },
		{ "--vmm v --listen 127.0.0.1:1", "--listen '127.0.0.1:1' needs --token-file" },
		{ "--vmm v --token-file t", "--token-file without --listen has no use" },
		{ "--vmm v --tls-cert t", "--tls-cert and --tls-key without --listen have no use" },
		{ "--config /no/such", "open configuration file '/no/such'\nNo such file or directory (os error 2)" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct forkd_options opt;
		struct err err;
		assert_true(parse(cases[i].line, &opt, &err) < 0);
		assert_string_equal(err.msg, cases[i].msg);
		options_done(&opt);
	}
}

static void mistakes_of_the_file(void **state)
{
	static const struct {
		const char *text, *msg; /* behind the file's name */
	} cases[] = {
		{ "\n#\nstor = /x\n", ":3\nunknown key 'stor'" },
		{ "help = 1\n", ":1\nunknown key 'help'" },
		{ "config = x\n", ":1\nunknown key 'config'" },
		{ "--store = x\n", ":1\nunknown key '--store'" },
		{ "store\n", ":1\n'store': must be 'name = value'" },
		{ "store =\n", ":1\nstore\nthe value is empty" },
		{ "store=a\nstore=b\n", ":2\nkey 'store' is there twice" },
		{ "memory-reserve = lots\n", ":1\nmemory-reserve\n'lots' is no number of MiB" },
		{ "insecure-plain-http = yes\n", ":1\ninsecure-plain-http\n'yes' is neither true nor false" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct forkd_options opt;
		struct err err;
		char line[128], msg[256];
		write_file(cases[i].text);
		snprintf(line, sizeof(line), "--vmm v --config %s", file);
		snprintf(msg, sizeof(msg), "%s%s", file, cases[i].msg);
		assert_true(parse(line, &opt, &err) < 0);
		assert_string_equal(err.msg, msg);
		options_done(&opt);
	}
}

static void explains(void **state)
{
	struct forkd_options opt;
	struct err err;
	char text[16384] = "";
	static const char *const names[] = { "socket",
					     "store",
					     "runtime-dir",
					     "config",
					     "listen",
					     "token-file",
					     "tls-cert",
					     "tls-key",
					     "insecure-plain-http",
					     "allow-path",
					     "vmm",
					     "socket-group",
					     "memory-reserve",
					     "log-level",
					     "version",
					     "help" };

	(void)state;
	assert_int_equal(parse("--help", &opt, &err), 0);
	assert_int_equal(opt.action, OPTIONS_HELP);
	options_done(&opt);
	assert_int_equal(parse("--version", &opt, &err), 0);
	assert_int_equal(opt.action, OPTIONS_VERSION);
	options_done(&opt);
	FILE *out = fmemopen(text, sizeof(text) - 1, "w");
	assert_non_null(out);
	options_help(out);
	fclose(out);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char head[64];
		snprintf(head, sizeof(head), "\n  --%s", names[i]);
		assert_non_null(strstr(text, head));
	}
	for (char *rest = text, *line; (line = strsep(&rest, "\n"));)
		assert_true(strlen(line) <= 80);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_all),
		cmocka_unit_test(has_defaults),
		cmocka_unit_test(finds_the_vmm),
		cmocka_unit_test(file_is_read),
		cmocka_unit_test(mistakes_of_the_line),
		cmocka_unit_test(mistakes_of_the_file),
		cmocka_unit_test(explains),
	};
	return cmocka_run_group_tests(tests, make_file, remove_file);
}
