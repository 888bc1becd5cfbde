// SPDX-License-Identifier: Apache-2.0
/* The 16550 serial port at 0x3f8. vCPU threads access its registers, the main thread brings input. */
#ifndef VMM_CONSOLE_SERIAL_H
#define VMM_CONSOLE_SERIAL_H

#include <pthread.h>

#include "vmm/console/chardev.h"

struct bus;

enum { SERIAL_PORT = 0x3f8, SERIAL_PORTS = 8, SERIAL_FIFO_BYTES = 64 };

/* As in state.json. */
struct serial_state {
	uint8_t interrupt_enable, interrupt_identification, line_control, line_status, modem_control, modem_status,
		scratch;
	uint16_t baud_divisor;
	uint8_t *in_buffer;
	uint32_t n_in_buffer;
};

struct serial {
	void (*pulse)(void *opaque); /* one edge on the interrupt line */
	void *opaque;
	struct chardev chardev;
	pthread_mutex_t lock;
	struct serial_state s;
	uint8_t fifo[SERIAL_FIFO_BYTES + 256]; /* s.in_buffer points here */
};

extern const struct field serial_state_fields[];

/* What the port gets of its machine. The machine outlives the port. */
struct serial_env {
	struct loop *loop; /* the main thread's */
	struct bus *pio;
	void (*pulse)(void *opaque); /* one edge on the port's interrupt line. Any thread */
	void *opaque;
};

/* Opens the back-end and puts the port on the bus. */
MUST_CHECK int serial_new(const struct serial_env *env, struct console_config *cfg, struct serial **ret_serial,
			  struct err *err);
void serial_free(struct serial *serial);
void serial_save(struct serial *serial, struct strbuf *out);
MUST_CHECK int serial_load(struct serial *serial, const struct json_node *state, struct err *err);

#endif
