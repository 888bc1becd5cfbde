// SPDX-License-Identifier: Apache-2.0
/* 16550A registers and interrupts. */
#include "vmm/console/serial.h"

#include <errno.h>
#include <string.h>

#include "vmm/core/bus.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
enum { IER_RX = 1, IER_TX = 2, IER_MASK = 0x0f };
enum { IIR_NONE = 1, IIR_TX = 2, IIR_RX = 4, IIR_FIFO = 0xc0 };
enum { LCR_DLAB = 0x80 };
enum { LSR_DATA = 1, LSR_EMPTY = 0x60 };
enum { MCR_LOOP = 0x10, MCR_OUT2 = 8 };

const struct field serial_state_fields[] = {
	F(struct serial_state, interrupt_enable, .flags = F_REQUIRED),
	F(struct serial_state, interrupt_identification, .flags = F_REQUIRED),
	F(struct serial_state, line_control, .flags = F_REQUIRED),
	F(struct serial_state, line_status, .flags = F_REQUIRED),
	F(struct serial_state, modem_control, .flags = F_REQUIRED),
	F(struct serial_state, modem_status, .flags = F_REQUIRED),
	F(struct serial_state, scratch, .flags = F_REQUIRED),
	F(struct serial_state, baud_divisor, .flags = F_REQUIRED),
	F_LIST(struct serial_state, in_buffer, .flags = F_REQUIRED, .count = SERIAL_FIFO_BYTES + 256),
	F_END,
};

/* Raises a cause that is enabled; the line is edge-triggered. */
static void raise_cause(struct serial *p, uint8_t enable, uint8_t cause)
{
	if (!(p->s.interrupt_enable & enable))
		return;
	p->s.interrupt_identification = (uint8_t)((p->s.interrupt_identification & ~IIR_NONE) | cause);
	p->pulse(p->opaque);
}

static void put_input(struct serial *p, const uint8_t *data, size_t len)
{
	size_t room = sizeof(p->fifo) - p->s.n_in_buffer;

	memcpy(p->fifo + p->s.n_in_buffer, data, len < room ? len : room);
	p->s.n_in_buffer += (uint32_t)(len < room ? len : room);
	p->s.line_status |= LSR_DATA;
	raise_cause(p, IER_RX, IIR_RX);
}

static void on_input(void *opaque, const uint8_t *data, size_t len)
{
	struct serial *p = opaque;

	pthread_mutex_lock(&p->lock);
	if (!(p->s.modem_control & MCR_LOOP))
		put_input(p, data, len);
	chardev_want_input(&p->chardev, p->s.n_in_buffer < SERIAL_FIFO_BYTES);
	pthread_mutex_unlock(&p->lock);
}

static uint8_t take_input(struct serial *p)
{
	uint8_t byte = 0;

	if (p->s.n_in_buffer > 0) {
		byte = p->fifo[0];
		memmove(p->fifo, p->fifo + 1, --p->s.n_in_buffer);
	}
	if (p->s.n_in_buffer == 0) {
		p->s.line_status &= (uint8_t)~LSR_DATA;
		p->s.interrupt_identification &= (uint8_t)~IIR_RX;
	} else {
		raise_cause(p, IER_RX, IIR_RX);
	}
	chardev_want_input(&p->chardev, p->s.n_in_buffer < SERIAL_FIFO_BYTES);
	return byte;
}

/*
 * Shows only the highest cause. Reading the transmitter's cause acknowledges that cause; the
 * receiver's cause goes when the data are read.
 */
static uint8_t read_iir(struct serial *p)
{
	uint8_t causes = p->s.interrupt_identification;

	if (causes & IIR_RX)
		return IIR_RX | IIR_FIFO;
	p->s.interrupt_identification = IIR_NONE;
	return (causes & IIR_TX ? IIR_TX : IIR_NONE) | IIR_FIFO;
}

static uint8_t read_msr(const struct serial *p)
{
	uint8_t m = p->s.modem_control;

	if (!(m & MCR_LOOP))
		return p->s.modem_status;
	return (uint8_t)((m & 0x0c) << 4 | (m & 0x02) << 3 | (m & 0x01) << 5); /* the outputs, looped back */
}

static uint8_t read_reg(struct serial *p, uint64_t off)
{
	bool dlab = p->s.line_control & LCR_DLAB;

	switch (off) {
	case DATA:
		return dlab ? (uint8_t)p->s.baud_divisor : take_input(p);
	case IER:
		return dlab ? (uint8_t)(p->s.baud_divisor >> 8) : p->s.interrupt_enable;
	case IIR:
		return read_iir(p);
	case LCR:
		return p->s.line_control;
	case MCR:
		return p->s.modem_control;
	case LSR:
		return p->s.line_status;
	case MSR:
		return read_msr(p);
	default:
		return p->s.scratch;
	}
}

static void write_data(struct serial *p, uint8_t v)
{
	if (p->s.modem_control & MCR_LOOP) {
		if (p->s.n_in_buffer < SERIAL_FIFO_BYTES)
			put_input(p, &v, 1);
		return;
	}
	chardev_write(&p->chardev, &v, 1);
	raise_cause(p, IER_TX, IIR_TX);
}

static void write_reg(struct serial *p, uint64_t off, uint8_t v)
{
	bool dlab = p->s.line_control & LCR_DLAB;

	switch (off) {
	case DATA:
		if (dlab)
			p->s.baud_divisor = (uint16_t)((p->s.baud_divisor & 0xff00) | v);
		else
			write_data(p, v);
		break;
	case IER:
		if (dlab) {
			p->s.baud_divisor = (uint16_t)((p->s.baud_divisor & 0xff) | v << 8);
			break;
		}
		/*
		 * The transmitter is always empty. Yet, as in Cloud Hypervisor, only a written byte raises the
		 * transmitter's interrupt: Linux tries this once, when Linux opens the port, and the result must
		 * hold wherever the guest goes on.
		 */
		p->s.interrupt_enable = v & IER_MASK;
		if (p->s.line_status & LSR_DATA)
			raise_cause(p, IER_RX, IIR_RX);
		break;
	case LCR:
		p->s.line_control = v;
		break;
	case MCR:
		p->s.modem_control = v;
		break;
	case SCR:
		p->s.scratch = v;
		break;
	}
}

static void serial_read(void *opaque, uint64_t off, void *data, unsigned len)
{
	struct serial *p = opaque;

	if (len != 1)
		return;
	pthread_mutex_lock(&p->lock);
	*(uint8_t *)data = read_reg(p, off);
	pthread_mutex_unlock(&p->lock);
}

static void serial_write(void *opaque, uint64_t off, const void *data, unsigned len)
{
	struct serial *p = opaque;

	if (len != 1)
		return;
	pthread_mutex_lock(&p->lock);
	write_reg(p, off, *(const uint8_t *)data);
	pthread_mutex_unlock(&p->lock);
}

int serial_new(const struct serial_env *env, struct console_config *cfg, struct serial **ret_serial, struct err *err)
{
	struct serial *p = calloc(1, sizeof(*p));

	if (!p)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make the serial port");
	p->pulse = env->pulse;
	p->opaque = env->opaque;
	p->lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	p->s = (struct serial_state){
		.interrupt_identification = IIR_NONE,
		.line_control = 3,
		.line_status = LSR_EMPTY,
		.modem_control = MCR_OUT2,
		.modem_status = 0xb0,
		.baud_divisor = 12,
		.in_buffer = p->fifo,
	};
	struct bus_range range = {
		.base = SERIAL_PORT,
		.size = SERIAL_PORTS,
		.dev = p,
		.read = serial_read,
		.write = serial_write,
	};
	if (chardev_open(&p->chardev, env->loop, cfg, "serial", err) < 0 || bus_add(env->pio, &range, err) < 0) {
		serial_free(p);
		return err->num;
	}
	p->chardev.input = on_input;
	p->chardev.opaque = p;
	chardev_want_input(&p->chardev, true);
	*ret_serial = p;
	return 0;
}

void serial_free(struct serial *p)
{
	if (!p)
		return;
	chardev_close(&p->chardev);
	free(p);
}

void serial_save(struct serial *p, struct strbuf *out)
{
	pthread_mutex_lock(&p->lock);
	fields_save(serial_state_fields, &p->s, out);
	pthread_mutex_unlock(&p->lock);
}

int serial_load(struct serial *p, const struct json_node *state, struct err *err)
{
	struct serial_state s = {};

	if (fields_load(serial_state_fields, &s, state, "__serial", err) < 0)
		return err_wrap(err, "state.json");
	memcpy(p->fifo, s.in_buffer, s.n_in_buffer);
	free(s.in_buffer);
	s.in_buffer = p->fifo;
	p->s = s;
	return 0;
}
