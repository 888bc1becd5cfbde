// SPDX-License-Identifier: Apache-2.0
/* virtio-console with one port: queue 0 carries the host's input, queue 1 the guest's output. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/console/chardev.h"
#include "vmm/core/loop.h"
#include "vmm/virtio/kinds.h"

enum { CONSOLE_QUEUE_SIZE = 256, RX = 0, TX = 1, F_CONSOLE_SIZE = 0, INPUT_MAX_BYTES = 4096 };
enum { TURN_BYTES = 64 << 10 }; /* of output for one notification: the lock is not held for more */

/* virtio 1.2, 5.3.4. */
struct console_space {
	uint16_t cols, rows;
	uint32_t max_nr_ports, emerg_wr;
};

struct console {
	struct virtio_dev vdev;
	struct chardev chardev;
	struct console_space space;
	uint8_t input[INPUT_MAX_BYTES]; /* input that came when the guest had no buffer */
	uint32_t n_input;
	uint64_t n_written; /* bytes of the first chain in the queue, when that chain is longer than a turn */
};

struct console_state {
	uint64_t avail_features, acked_features;
	struct console_space config;
	uint8_t *in_buffer;
	uint32_t n_in_buffer;
};

static const struct field space_fields[] = {
	F(struct console_space, cols, .flags = F_REQUIRED),
	F(struct console_space, rows, .flags = F_REQUIRED),
	F(struct console_space, max_nr_ports, .flags = F_REQUIRED),
	F(struct console_space, emerg_wr, .flags = F_REQUIRED),
	F_END,
};

static const struct field console_state_fields[] = {
	F(struct console_state, avail_features, .flags = F_REQUIRED),
	F(struct console_state, acked_features, .flags = F_REQUIRED),
	F_OBJ(struct console_state, config, space_fields, .flags = F_REQUIRED),
	F_LIST(struct console_state, in_buffer, .flags = F_REQUIRED, .count = INPUT_MAX_BYTES),
	F_END,
};

static void give_input(struct console *con)
{
	struct virtio_dev *vdev = &con->vdev;
	struct chain c;

	do {
		while (con->n_input > 0 && virtio_pop(vdev, RX, &c)) {
			size_t n = iov_from_buf(c.iov + c.n_read, c.n_write, 0, con->input, con->n_input);
			memmove(con->input, con->input + n, con->n_input - n);
			con->n_input -= (uint32_t)n;
			virtio_push(vdev, RX, c.head, (uint32_t)n);
		}
	} while (con->n_input > 0 && virtio_more(vdev, RX));
	virtio_interrupt(vdev, RX);
	chardev_want_input(&con->chardev, con->n_input + 256 <= INPUT_MAX_BYTES);
}

static void console_input(void *opaque, const uint8_t *data, size_t len)
{
	struct console *con = opaque;

	pthread_mutex_lock(&con->vdev.lock);
	if (len <= INPUT_MAX_BYTES - con->n_input) {
		memcpy(con->input + con->n_input, data, len);
		con->n_input += (uint32_t)len;
	}
	give_input(con);
	pthread_mutex_unlock(&con->vdev.lock);
}

/* Writes what is left of a chain, as far as the turn goes; false: there is more. */
static bool write_chain(struct console *con, const struct chain *c, size_t *turn)
{
	uint64_t skip = con->n_written;

	for (unsigned i = 0; i < c->n_read; i++) {
		if (skip >= c->iov[i].iov_len) {
			skip -= c->iov[i].iov_len;
			continue;
		}
		size_t left = c->iov[i].iov_len - skip, part = left < *turn ? left : *turn;
		size_t n = chardev_write(&con->chardev, (const char *)c->iov[i].iov_base + skip, part);
		con->n_written += n;
		*turn -= n;
		if (n < left)
			return false;
		skip = 0;
	}
	return true;
}

/*
 * Writes the guest's output. The worker writes the rest of a chain that is longer than a turn; without
 * a worker the rest is lost.
 */
static void take_output(struct console *con)
{
	struct virtio_dev *vdev = &con->vdev;
	size_t turn = TURN_BYTES;
	bool more = false;
	struct chain c;

	do {
		while (!more && virtio_pop(vdev, TX, &c)) {
			more = !write_chain(con, &c, &turn) && virtio_pci_again(vdev->transport, TX);
			if (more) {
				vring_unpop(&vdev->queue[TX]);
				break;
			}
			con->n_written = 0;
			virtio_push(vdev, TX, c.head, 0);
		}
	} while (!more && virtio_more(vdev, TX));
	virtio_interrupt(vdev, TX);
}

static void console_notify(struct virtio_dev *vdev, unsigned queue)
{
	struct console *con = container_of(vdev, struct console, vdev);

	if (queue == RX)
		give_input(con);
	else
		take_output(con);
}

static void console_activate(struct virtio_dev *vdev)
{
	struct console *con = container_of(vdev, struct console, vdev);

	chardev_want_input(&con->chardev, true);
}

static void console_reset(struct virtio_dev *vdev)
{
	container_of(vdev, struct console, vdev)->n_written = 0;
}

static void console_save(struct virtio_dev *vdev, struct strbuf *out)
{
	struct console *con = container_of(vdev, struct console, vdev);
	struct console_state s = { vdev->avail_features, vdev->acked_features, con->space, con->input, con->n_input };

	fields_save(console_state_fields, &s, out);
}

static int console_load(struct virtio_dev *vdev, const struct json_node *state, struct err *err)
{
	struct console *con = container_of(vdev, struct console, vdev);
	struct console_state s = {};

	if (fields_load(console_state_fields, &s, state, vdev->id, err) < 0)
		return err_wrap(err, "state.json");
	con->space = s.config;
	memcpy(con->input, s.in_buffer, s.n_in_buffer);
	con->n_input = s.n_in_buffer;
	uint64_t avail = s.avail_features, acked = s.acked_features;
	fields_free(console_state_fields, &s);
	return virtio_load_features(vdev, avail, acked, err);
}

static void console_free(struct virtio_dev *vdev)
{
	struct console *con = container_of(vdev, struct console, vdev);

	chardev_close(&con->chardev);
	virtio_done(vdev);
	free(con);
}

static const struct virtio_device_ops console_ops = {
	.name = "console",
	.type = VIRTIO_ID_CONSOLE,
	.pci_class = 0xffff00,
	.config_bytes = sizeof(struct console_space),
	.activate = console_activate,
	.reset = console_reset,
	.notify = console_notify,
	.save = console_save,
	.load = console_load,
	.free = console_free,
};

int virtio_console_new(const struct device_env *env, struct console_config *cfg, struct virtio_dev **ret,
		       struct err *err)
{
	struct console *con = calloc(1, sizeof(*con));
	struct winsize size = {};

	if (!con)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make the console");
	con->space.max_nr_ports = 1;
	con->vdev.config = &con->space;
	con->vdev.avail_features = 1ULL << F_CONSOLE_SIZE;
	int r = virtio_init(&con->vdev, &console_ops, env->mem, cfg->id ? cfg->id : "__console", 2, CONSOLE_QUEUE_SIZE,
			    err);
	if (r == 0)
		r = chardev_open(&con->chardev, env->loop, cfg, "console", err);
	con->chardev.input = console_input;
	con->chardev.opaque = con;
	if (r == 0 && con->chardev.out_fd >= 0 && ioctl(con->chardev.out_fd, TIOCGWINSZ, &size) == 0) {
		con->space.cols = size.ws_col;
		con->space.rows = size.ws_row;
	}
	return virtio_made(&con->vdev, &console_ops, r, ret);
}
