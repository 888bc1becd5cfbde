// SPDX-License-Identifier: Apache-2.0
/*
 * The errors of the REST API: each has a code in snake_case, a status and a remedy, all written once, here.
 * fail() puts the row's number into err->detail; an error without one (from store/, common/, a VM process) gets the
 * row that its enum err_code names. api-spec/openapi.yaml has the same codes, and a test compares them.
 */
#ifndef FORKD_ERRORS_H
#define FORKD_ERRORS_H

#include "common/err.h"
#include "common/json64.h"

/* X(NAME, "code", status, "remedy") */
#define FORKD_ERRORS(X)                                                                                            \
	X(E_INVALID, "invalid_request", 400, "Correct the request; the message names the field and the value.")    \
	X(E_BAD_JSON, "invalid_json", 400, "Send one JSON object, UTF-8, without duplicate keys.")                 \
	X(E_UNKNOWN_FIELD, "unknown_field", 400, "Remove the field, or look up its name in the API description.")  \
	X(E_BAD_NAME, "invalid_name", 400,                                                                         \
	  "Use 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', beginning with a letter or digit.")                     \
	X(E_BAD_OVERRIDE, "invalid_override", 400, "Override only what the guest has not read already; see docs.") \
	X(E_BAD_FDS, "invalid_net_fds", 400,                                                                       \
	  "Send as many tap descriptors as net_fds names, with the request's first byte.")                         \
	X(E_DISK_SHARED, "disk_needs_override", 400, "Give every clone its own disk: overrides.disks[].path.")     \
	X(E_BAD_SNAPSHOT, "invalid_snapshot", 400,                                                                 \
	  "Take the snapshot again; the message names the file and what is wrong in it.")                          \
	X(E_UNAUTHORIZED, "unauthorized", 401,                                                                     \
	  "Send 'Authorization: Bearer TOKEN' with the token of the daemon's token file.")                         \
	X(E_FORBIDDEN, "path_not_allowed", 403,                                                                    \
	  "Use a path below a root given by --allow-path, or send a descriptor.")                                  \
	X(E_OTHER_USER, "user_not_served", 403,                                                                    \
	  "Ask as root, as the daemon's user or with the token, or run forkd as root.")                            \
	X(E_NOT_FOUND, "not_found", 404, "Check the path; GET /v1/version names the API's version.")               \
	X(E_NO_TEMPLATE, "template_not_found", 404, "List the templates: GET /v1/templates.")                      \
	X(E_NO_CLONE, "clone_not_found", 404, "List the clones: GET /v1/clones.")                                  \
	X(E_METHOD, "method_not_allowed", 405, "Use a method that the header Allow names.")                        \
	X(E_TEMPLATE_EXISTS, "template_exists", 409, "Choose another name, or delete that template first.")        \
	X(E_TEMPLATE_IN_USE, "template_in_use", 409, "Delete its dependents first.")                               \
	X(E_TEMPLATE_BUILDING, "template_not_ready", 409, "Wait for the event template.ready.")                    \
	X(E_PAUSED, "paused", 409, "Resume the clone first: PUT /v1/clones/{id}/resume.")                          \
	X(E_BAD_STATE, "invalid_state", 409, "Look at the clone's state and do what leads to the right one.")      \
	X(E_CONFLICT, "conflict", 409, "Use another name, path or tap: this one is in use.")                       \
	X(E_DISK_UNUSABLE, "disk_unusable", 409,                                                                   \
	  "Put the file back, or name another: overrides.disks[].path, or config.json before an import.")          \
	X(E_INCOMPATIBLE, "host_incompatible", 409,                                                                \
	  "Clone it on a host that has what the message names; forkctl doctor --template compares a host.")        \
	X(E_VERSION, "incompatible_version", 409,                                                                  \
	  "Use forkd and forkd-vmm of one release; DELETE ends a clone of another one.")                           \
	X(E_SECRETS, "has_secrets", 409,                                                                           \
	  "Send \"allow_secrets\": true if everyone who clones the template may have them.")                       \
	X(E_IDEMPOTENCY, "idempotency_key_reused", 409, "Use a new Idempotency-Key for a different request.")      \
	X(E_GONE, "events_lost", 410, "Read the present state, then follow the events from now on.")               \
	X(E_TOO_LARGE, "request_too_large", 413, "Send a smaller request.")                                        \
	X(E_MEDIA_TYPE, "unsupported_media_type", 415, "Send 'Content-Type: application/json'.")                   \
	X(E_UPGRADE, "upgrade_required", 426, "Send 'Connection: Upgrade' and 'Upgrade: tcp'.")                    \
	X(E_BUSY, "busy", 429, "Try again later.")                                                                 \
	X(E_NO_MEMORY, "not_enough_memory", 507,                                                                   \
	  "Delete clones, ask for fewer, or use memory_restore_mode copyonwrite.")                                 \
	X(E_NO_SPACE, "no_space", 507, "Free space in the file system of what the message names.")                 \
	X(E_TIMEOUT, "timeout", 504,                                                                               \
	  "Ask for a longer timeout, or look at the serial log for what the guest waits for.")                     \
	X(E_HOST, "template_host_failed", 503,                                                                     \
	  "Try again; the daemon starts a new template host. Its log has the reason.")                             \
	X(E_NO_ANSWER, "clone_not_responding", 503,                                                                \
	  "Try again: it is asked until it answers. DELETE ends it whether it answers or not.")                    \
	X(E_AGENT, "agent_unreachable", 502,                                                                       \
	  "Look whether forkd-agent runs in the guest; the clone's serial log may say why not.")                   \
	X(E_CLONE_DIED, "clone_died", 500,                                                                         \
	  "The message has the reason, if it is known; the daemon's log has what the process said.")               \
	X(E_INTERNAL, "internal", 500, "Look at the daemon's log.")

enum error_row {
	E_NONE,
#define X(name, code, status, remedy) name,
	FORKD_ERRORS(X)
#undef X
};

struct error_info {
	const char *code, *remedy;
	unsigned status;
};

/* The row of an error, never NULL. */
const struct error_info *error_info(const struct err *err);
/* Sets the message and the row. Returns a negative errno, for `return fail(…)`. */
int fail(struct err *err, enum error_row row, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Keeps the message (wrapped by the text when fmt is not NULL) and gives it that row. */
int fail_as(struct err *err, enum error_row row, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* {"code","message","remedy"}; links of the message joined by ": ". */
void error_json(const struct err *err, struct strbuf *out);
/* The same as the body of an answer: a line. */
void error_body(const struct err *err, struct strbuf *out);

#endif
