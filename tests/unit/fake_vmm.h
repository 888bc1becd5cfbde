// SPDX-License-Identifier: Apache-2.0
/*
 * The machine behind the API for a unit test: vmm/api/machine_state.h with as much of the state machine as the messages
 * need. Included by a test program's only file.
 */
#ifndef TESTS_UNIT_FAKE_VMM_H
#define TESTS_UNIT_FAKE_VMM_H

#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "vmm/api/machine_state.h"

enum state { EMPTY, CREATED, RUNNING, PAUSED };

struct vmm {
	enum state state;
	struct vm_config config;
	struct err forced; /* the next call fails so, unless code is ERR_NONE */
	char snapshot_url[128];
	ino_t fd_inodes[16]; /* of the last restore, in the order of its nets */
	unsigned n_fds, calls;
	char did[64]; /* the last call of those that have no state of their own here */
};

static inline int forced(struct vmm *v, struct err *err)
{
	v->calls++;
	*err = v->forced;
	v->forced.code = ERR_NONE;
	return err->code == ERR_NONE ? 0 : err->num;
}

static inline int move(struct vmm *v, enum state from, enum state to, struct err *err)
{
	if (forced(v, err) < 0)
		return err->num;
	if (v->state != from)
		return err_set(err, ERR_INTERNAL, "VM is not running");
	v->state = to;
	return 0;
}

struct vmm *vmm_new(struct loop *loop, struct err *err)
{
	(void)loop;
	struct vmm *v = calloc(1, sizeof(*v));
	if (!v)
		err_num(err, ERR_INTERNAL, ENOMEM, "new");
	return v;
}

void vmm_free(struct vmm *v)
{
	if (v)
		vm_config_free(&v->config);
	free(v);
}

int vmm_create(struct vmm *v, struct vm_config *config, struct err *err)
{
	if (forced(v, err) < 0)
		return err->num;
	if (v->state != EMPTY)
		return err_set(err, ERR_INTERNAL, "VM is already created");
	v->config = *config;
	*config = (struct vm_config){};
	v->state = CREATED;
	return 0;
}

int vmm_power_button(struct vmm *v, struct err *err)
{
	snprintf(v->did, sizeof(v->did), "power button");
	return forced(v, err);
}

int vmm_nmi(struct vmm *v, struct err *err)
{
	snprintf(v->did, sizeof(v->did), "nmi");
	return forced(v, err);
}

int vmm_resize(struct vmm *v, const struct vm_resize *want, struct err *err)
{
	snprintf(v->did, sizeof(v->did), "resize %lld %lld %lld",
		 want->has_desired_vcpus ? (long long)want->desired_vcpus : -1,
		 want->has_desired_ram ? (long long)want->desired_ram : -1,
		 want->has_desired_balloon ? (long long)want->desired_balloon : -1);
	return forced(v, err);
}

/* The machine's answer to what was added: once it runs. */
static inline int fake_add(struct vmm *v, const char *what, const char *id, struct strbuf *out, struct err *err)
{
	snprintf(v->did, sizeof(v->did), "add %s %s", what, id ? id : "-");
	if (forced(v, err) < 0)
		return err->num;
	if (v->state >= RUNNING)
		strbuf_puts(out, "{\"id\":\"x\",\"bdf\":\"0000:00:06.0\"}");
	return 0;
}

int vmm_add_disk(struct vmm *v, struct disk_config *disk, struct strbuf *out, struct err *err)
{
	return fake_add(v, disk->path ? disk->path : "disk", disk->id, out, err);
}

/* Takes the first of its descriptors, if it succeeds. */
int vmm_add_net(struct vmm *v, struct net_config *net, struct strbuf *out, struct err *err)
{
	struct stat st;

	if (fake_add(v, "net", net->id, out, err) < 0)
		return err->num;
	v->n_fds = net->n_fds;
	for (uint32_t i = 0; i < net->n_fds && fstat(net->fds[i], &st) == 0; i++)
		v->fd_inodes[i] = st.st_ino;
	if (net->n_fds > 0)
		close(steal_fd(&net->fds[0]));
	return 0;
}

int vmm_add_vsock(struct vmm *v, struct vsock_config *vsock, struct strbuf *out, struct err *err)
{
	return fake_add(v, vsock->socket, vsock->id, out, err);
}

int vmm_remove_device(struct vmm *v, const char *id, struct err *err)
{
	snprintf(v->did, sizeof(v->did), "remove %s", id);
	return forced(v, err);
}

int vmm_resize_disk(struct vmm *v, const char *id, uint64_t bytes, struct err *err)
{
	snprintf(v->did, sizeof(v->did), "resize %s %llu", id, (unsigned long long)bytes);
	return forced(v, err);
}

int vmm_counters_json(struct vmm *v, struct strbuf *out, struct err *err)
{
	if (v->state != RUNNING)
		return err_set(err, ERR_INTERNAL, "VM is not running");
	strbuf_puts(out, "{\"_net0\":{\"rx_bytes\":1}}");
	return forced(v, err);
}

int vmm_boot(struct vmm *v, struct err *err)
{
	if (forced(v, err) < 0)
		return err->num;
	if (v->state == EMPTY)
		return err_set(err, ERR_NOT_FOUND, "VM is not created");
	v->state = RUNNING;
	return 0;
}

int vmm_pause(struct vmm *v, struct err *err)
{
	return move(v, RUNNING, PAUSED, err);
}

int vmm_resume(struct vmm *v, struct err *err)
{
	return move(v, PAUSED, RUNNING, err);
}

int vmm_snapshot(struct vmm *v, const char *destination_url, struct err *err)
{
	snprintf(v->snapshot_url, sizeof(v->snapshot_url), "%s", destination_url);
	return move(v, PAUSED, PAUSED, err);
}

int vmm_restore(struct vmm *v, struct restore_config *rc, struct err *err)
{
	struct stat st;

	v->n_fds = 0;
	for (uint32_t i = 0; i < rc->n_net_fds; i++) {
		for (uint32_t k = 0; k < rc->net_fds[i].n_fds; k++) {
			int *fd = &rc->net_fds[i].fds[k];
			assert_int_equal(fstat(*fd, &st), 0);
			assert_true(fcntl(*fd, F_GETFD) & FD_CLOEXEC);
			if (v->n_fds < ARRAY_LEN(v->fd_inodes))
				v->fd_inodes[v->n_fds] = st.st_ino;
			v->n_fds++;
			close(steal_fd(fd));
		}
	}
	return move(v, EMPTY, rc->resume ? RUNNING : PAUSED, err);
}

int vmm_shutdown(struct vmm *v, struct err *err)
{
	if (forced(v, err) < 0)
		return err->num;
	if (v->state != RUNNING && v->state != PAUSED)
		return err_set(err, ERR_INTERNAL, "VM is not running");
	v->state = CREATED;
	return 0;
}

int vmm_delete(struct vmm *v, struct err *err)
{
	if (forced(v, err) < 0)
		return err->num;
	vm_config_free(&v->config);
	v->state = EMPTY;
	return 0;
}

int vmm_reboot(struct vmm *v, struct err *err)
{
	if (forced(v, err) < 0)
		return err->num;
	return v->state == EMPTY ? err_set(err, ERR_NOT_FOUND, "VM is not created") : 0;
}

int vmm_info(struct vmm *v, struct strbuf *out, struct err *err)
{
	static const char *const names[] = { "", "Created", "Running", "Paused" };

	if (forced(v, err) < 0)
		return err->num;
	if (v->state == EMPTY)
		return err_set(err, ERR_NOT_FOUND, "VM is not created");
	strbuf_puts(out, "{\"config\":");
	fields_save(vm_config_fields, &v->config, out);
	strbuf_printf(out, ",\"state\":\"%s\",\"memory_actual_size\":%llu}", names[v->state],
		      (unsigned long long)v->config.memory.size);
	return 0;
}

#endif
