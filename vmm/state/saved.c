// SPDX-License-Identifier: Apache-2.0
/* The nodes "" and "cpu-manager" of state.json. */
#include "vmm/state/saved.h"

#include <errno.h>

#include "vmm/state/state.h"

static int read_arch_state(struct saved *s, const struct snapshot *snap, struct err *err)
{
	const struct json_node *state = NULL;
	autojson struct json json = {};

	if (state_parse(&snap->state.nodes[0], "root", &json, &state, err) < 0)
		return err->num;
	if (fields_load(arch_state_fields, &s->arch, state, "root", err) < 0)
		return err_wrap(err, "state.json");
	return 0;
}

static int read_vcpus(struct saved *s, const struct snapshot *snap, struct err *err)
{
	const struct json_node *manager = NULL;

	if (state_child(&snap->state.nodes[0], "cpu-manager", &manager, err) < 0)
		return err->num;
	const struct json_node *cpus = json_get(manager, "snapshots");
	if (!cpus || cpus->count != s->n_cpus)
		return err_set(err, ERR_INVALID, "state.json: cpu-manager has %u vCPUs, config.json says %u",
			       cpus ? cpus->count : 0, s->n_cpus);
	for (unsigned i = 0; i < s->n_cpus; i++) {
		char id[16];
		snprintf(id, sizeof(id), "%u", i);
		if (state_load_leaf(manager, id, vcpu_state_fields, &s->cpu[i], err) < 0)
			return err_wrap(err, "vCPU %u", i);
	}
	return 0;
}

int saved_read(struct saved *s, const struct snapshot *snap, unsigned n_cpus, struct err *err)
{
	s->n_cpus = n_cpus;
	s->cpu = calloc(n_cpus, sizeof(*s->cpu));
	if (!s->cpu)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read %u vCPUs", n_cpus);
	if (read_arch_state(s, snap, err) < 0 || read_vcpus(s, snap, err) < 0)
		return err->num;
	return arch_needs_of(&s->arch, s->cpu, n_cpus, &s->needs, err) < 0 ? err_wrap(err, "state.json") : 0;
}

void saved_done(struct saved *s)
{
	fields_free(arch_state_fields, &s->arch);
	for (unsigned i = 0; i < s->n_cpus && s->cpu; i++)
		fields_free(vcpu_state_fields, &s->cpu[i]);
	free(s->cpu);
	*s = (struct saved){};
}
