// SPDX-License-Identifier: Apache-2.0
/* vmm/serial: the 16550's registers, FIFO, loopback and interrupts, over a socket; KVM is fake_kvm(). */
#include "vmm/console/serial.h"

#include "tests/unit/fake_kvm.h"
#include "tests/unit/rounds.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "vmm/machine/machine.h"
#include "vmm/x86/ioapic.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
enum { DLAB = 0x80, LOOP = 0x10 };

static unsigned n_msi;

static int fake_kvm(unsigned long request, void *arg)
{
	(void)arg;
	assert_int_equal(request, KVM_SIGNAL_MSI);
	n_msi++;
	return 1;
}

static struct vm vm;
static struct serial *port;

static void pulse(void *opaque)
{
	arch_irq_pulse(opaque, arch_serial_gsi);
}

static struct serial_env env = { .pio = &vm.pio, .pulse = pulse, .opaque = &vm };
static char path[64];
static int peer;

static uint8_t in(unsigned reg)
{
	uint8_t v = 0x5a;

	bus_read(&vm.pio, SERIAL_PORT + reg, &v, 1);
	return v;
}

static void out(unsigned reg, uint8_t v)
{
	bus_write(&vm.pio, SERIAL_PORT + reg, &v, 1);
}

static int make(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct err err = {};

	(void)state;
	snprintf(path, sizeof(path), "/tmp/forkd-test-serial-%d", getpid());
	struct console_config cfg = { .mode = CONSOLE_SOCKET, .socket = path };
	if (loop_init(&loop, &err) < 0)
		return -1;
	vm = (struct vm){ .loop = &loop, .kvm = { .fd = -1, .vm_fd = FAKE_FD } };
	env.loop = &loop;
	bus_init(&vm.pio);
	ioapic_init(&vm.arch.ioapic);
	vm.arch.ioapic.s.reg_entries[arch_serial_gsi] = 0x31; /* edge, unmasked */
	if (serial_new(&env, &cfg, &port, &err) < 0)
		return -1;
	peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	if (connect(peer, (const struct sockaddr *)(const void *)&addr, sizeof(addr)) < 0)
		return -1;
	run_rounds(2);
	n_msi = 0;
	return 0;
}

static int done(void **state)
{
	(void)state;
	serial_free(port);
	serial_free(NULL);
	close(peer);
	loop_done(&loop);
	return 0;
}

static void send_text(const char *text)
{
	assert_int_equal(write(peer, text, strlen(text)), strlen(text));
	run_rounds(2);
}

static void registers_at_reset(void **state)
{
	static const uint8_t want[] = { 0, 0, 0xc1, 3, 8, 0x60, 0xb0, 0 };

	(void)state;
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(in(i), want[i]);
	uint16_t wide = 0;
	bus_read(&vm.pio, SERIAL_PORT + LSR, &wide, 2);
	assert_int_equal(wide, 0xffff);
	bus_write(&vm.pio, SERIAL_PORT + SCR, &(uint16_t){ 0x1234 }, 2);
	assert_int_equal(in(SCR), 0);
	bus_write(&vm.pio, SERIAL_PORT + LCR, &(uint16_t){ 0x8080 }, 2);
	assert_int_equal(in(LCR), 3);
	out(SCR, 0xa5);
	assert_int_equal(in(SCR), 0xa5);
	out(LSR, 0);
	out(MSR, 0);
	assert_int_equal(in(LSR), 0x60);
	assert_int_equal(in(MSR), 0xb0);
	out(IIR, 0xc7); /* FIFO control: nothing to do */
	assert_int_equal(in(IIR), 0xc1);
	out(IER, 0xff);
	assert_int_equal(in(IER), 0x0f);
}

static void divisor(void **state)
{
	char buf[4];

	(void)state;
	out(LCR, DLAB | 3);
	assert_int_equal(in(DATA), 12);
	assert_int_equal(in(IER), 0);
	out(DATA, 0x34);
	out(IER, 0x12);
	assert_int_equal(in(DATA), 0x34);
	assert_int_equal(in(IER), 0x12);
	assert_int_equal(port->s.baud_divisor, 0x1234);
	out(LCR, 3);
	assert_int_equal(in(IER), 0);
	assert_int_equal(n_msi, 0);
	assert_int_equal(read(peer, buf, sizeof(buf)), -1); /* nothing was sent */
}

static void output_and_its_interrupt(void **state)
{
	char buf[4];

	(void)state;
	out(DATA, 'h');
	assert_int_equal(n_msi, 0);
	assert_int_equal(in(IIR), 0xc1);
	out(IER, 2); /* empty already, but nothing was written since: as in Cloud Hypervisor */
	assert_int_equal(n_msi, 0);
	assert_int_equal(in(IIR), 0xc1);
	out(DATA, 'i');
	assert_int_equal(n_msi, 1);
	assert_int_equal(in(IIR), 0xc2);
	assert_int_equal(in(IIR), 0xc1); /* reading acknowledged it */
	assert_int_equal(in(LSR), 0x60);
	assert_int_equal(read(peer, buf, sizeof(buf)), 2);
	assert_memory_equal(buf, "hi", 2);
}

static void input_and_its_interrupt(void **state)
{
	(void)state;
	send_text("ab");
	assert_int_equal(n_msi, 0);
	assert_int_equal(in(LSR), 0x61);
	assert_int_equal(in(IIR), 0xc1);
	out(IER, 1); /* data is there already */
	assert_int_equal(n_msi, 1);
	assert_int_equal(in(IIR), 0xc4);
	assert_int_equal(in(IIR), 0xc4); /* only reading the data ends it */
	assert_int_equal(in(DATA), 'a');
	assert_int_equal(in(IIR), 0xc4);
	assert_int_equal(in(LSR), 0x61);
	assert_int_equal(n_msi, 2);
	assert_int_equal(in(DATA), 'b');
	assert_int_equal(in(LSR), 0x60);
	assert_int_equal(in(IIR), 0xc1);
	assert_int_equal(n_msi, 2);
	assert_int_equal(in(DATA), 0); /* empty */
	send_text("c");
	assert_int_equal(n_msi, 3);
	assert_int_equal(in(DATA), 'c');
}

static void both_causes(void **state)
{
	(void)state;
	out(IER, 3);
	out(DATA, 'x');
	send_text("a");
	assert_int_equal(in(IIR), 0xc4); /* one at a time, the receiver first */
	assert_int_equal(in(DATA), 'a');
	assert_int_equal(in(IIR), 0xc2);
	assert_int_equal(in(IIR), 0xc1);
}

static void full_fifo_holds_input_back(void **state)
{
	char text[1001] = "";
	unsigned n = 0;

	(void)state;
	for (unsigned i = 0; i < 1000; i++)
		text[i] = (char)('A' + i % 50);
	send_text(text);
	run_rounds(5);
	assert_true(port->s.n_in_buffer >= SERIAL_FIFO_BYTES && port->s.n_in_buffer <= sizeof(port->fifo));
	while (in(LSR)&1) {
		assert_int_equal(in(DATA), text[n++]);
		run_rounds(1);
	}
	assert_int_equal(n, 1000);
}

static void loopback(void **state)
{
	char buf[4];

	(void)state;
	out(IER, 1);
	out(MCR, LOOP);
	out(DATA, 'L');
	assert_int_equal(n_msi, 1);
	assert_int_equal(in(LSR), 0x61);
	assert_int_equal(in(DATA), 'L');
	assert_int_equal(read(peer, buf, sizeof(buf)), -1);
	static const struct {
		uint8_t mcr, msr;
	} lines[] = {
		/* DTR, RTS, OUT1, OUT2 -> DSR, CTS, RI, DCD */
		{ 0, 0 }, { 1, 0x20 }, { 2, 0x10 }, { 4, 0x40 }, { 8, 0x80 }, { 15, 0xf0 },
	};
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		out(MCR, LOOP | lines[i].mcr);
		assert_int_equal(in(MSR), lines[i].msr);
		assert_int_equal(in(MCR), LOOP | lines[i].mcr);
	}
	send_text("x"); /* the line is cut off */
	assert_int_equal(in(LSR), 0x60);
	for (unsigned i = 0; i < 100; i++)
		out(DATA, (uint8_t)i);
	for (unsigned i = 0; i < SERIAL_FIFO_BYTES; i++)
		assert_int_equal(in(DATA), i);
	assert_int_equal(in(LSR), 0x60);
	out(MCR, 8);
	assert_int_equal(in(MSR), 0xb0);
	send_text("y");
	assert_int_equal(in(DATA), 'y');
}

static int load(const char *text, struct err *err)
{
	autofree char *copy = exact_copy(text, strlen(text));
	autojson struct json json = {};

	assert_int_equal(json_parse(&json, copy, strlen(text), err), 0);
	return serial_load(port, &json.nodes[0], err);
}

static void save_and_load(void **state)
{
	autostrbuf struct strbuf fresh = {}, saved = {}, again = {};
	struct err err = {};

	serial_save(port, &fresh);
	assert_string_equal(fresh.text, "{\"interrupt_enable\":0,\"interrupt_identification\":1,\"line_control\":3,"
					"\"line_status\":96,\"modem_control\":8,\"modem_status\":176,\"scratch\":0,"
					"\"baud_divisor\":12,\"in_buffer\":[]}");
	out(IER, 1);
	out(SCR, 9);
	send_text("ab");
	serial_save(port, &saved);
	assert_non_null(strstr(saved.text, "\"interrupt_identification\":4"));
	assert_non_null(strstr(saved.text, "\"in_buffer\":[97,98]}"));
	done(state);
	make(state);
	assert_int_equal(load(saved.text, &err), 0);
	serial_save(port, &again);
	assert_string_equal(again.text, saved.text);
	assert_int_equal(in(IIR), 0xc4);
	send_text("c");
	assert_int_equal(in(DATA), 'a');
	assert_int_equal(in(DATA), 'b');
	assert_int_equal(in(DATA), 'c');
	assert_int_equal(load(fresh.text, &err), 0);
	assert_int_equal(in(LSR), 0x60);
	assert_int_equal(load("{\"interrupt_enable\":0}", &err), -EINVAL);
	assert_string_equal(err.msg, "state.json\n__serial.interrupt_identification: missing");

	autostrbuf struct strbuf big = {}; /* more than the FIFO has */
	strbuf_add(&big, fresh.text, fresh.len - 2);
	for (unsigned i = 0; i < sizeof(port->fifo) + 1; i++)
		strbuf_puts(&big, i ? ",1" : "1");
	strbuf_puts(&big, "]}");
	assert_int_equal(load(big.text, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "has 321 elements, at most 320 are possible"));
	assert_int_equal(in(LSR), 0x60);
}

static void fails_cleanly(void **state)
{
	struct console_config cfg = { .mode = CONSOLE_NULL };
	struct serial *second = NULL;
	struct err err = {};

	(void)state;
	assert_true(serial_new(&env, &cfg, &second, &err) < 0);
	assert_string_equal(err.msg, "device registers at 0x3f8 are in another device's place");
	assert_null(second);
}

#define T(f) cmocka_unit_test_setup_teardown(f, make, done)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(registers_at_reset),
		T(divisor),
		T(output_and_its_interrupt),
		T(input_and_its_interrupt),
		T(full_fifo_holds_input_back),
		T(loopback),
		T(both_causes),
		T(save_and_load),
		T(fails_cleanly),
	};

	return cmocka_run_group_tests_name("serial", tests, NULL, NULL);
}
