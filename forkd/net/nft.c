// SPDX-License-Identifier: Apache-2.0
/* libnftables. */
#include "forkd/net/nft.h"

#include <errno.h>
#include <nftables/libnftables.h>
#include <pthread.h>
#include <string.h>

#include "common/log.h"

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static struct nft_ctx *spent[NFT_SPENT_MAX]; /* under the lock */
static unsigned n_spent;

/* The first line of what the library says: its later ones show the place in the commands. */
static int refused(struct nft_ctx *ctx, const char *what, struct err *err)
{
	const char *text = nft_ctx_get_error_buffer(ctx);
	size_t len = text ? strcspn(text, "\n") : 0;

	log_debug("%s: nftables says: %s", what, text ? text : "nothing");
	return len > 0 ? err_set(err, ERR_INTERNAL, "%s: nftables: %.*s", what, (int)len, text)
		       : err_set(err, ERR_INTERNAL, "%s: nftables refuses the rules", what);
}

static int run_locked(const char *commands, const char *what, struct strbuf *out, struct err *err)
{
	struct nft_ctx *ctx = nft_ctx_new(NFT_CTX_DEFAULT);

	if (!ctx)
		return err_num(err, ERR_INTERNAL, ENOMEM, "%s", what);
	nft_ctx_buffer_error(ctx);
	nft_ctx_buffer_output(ctx);
	int r = nft_run_cmd_from_buffer(ctx, commands) ? refused(ctx, what, err) : 0;
	const char *text = nft_ctx_get_output_buffer(ctx);
	if (r >= 0 && out && text)
		strbuf_puts(out, text);
	if (n_spent < NFT_SPENT_MAX)
		spent[n_spent++] = ctx;
	else
		nft_ctx_free(ctx);
	return r;
}

/* Others come between: the lock is let go of after each. */
void nft_tidy(void)
{
	bool more = true;

	while (more) {
		pthread_mutex_lock(&one_at_a_time);
		if (n_spent > 0)
			nft_ctx_free(spent[--n_spent]);
		more = n_spent > 0;
		pthread_mutex_unlock(&one_at_a_time);
	}
}

int nft_ask(const char *commands, const char *what, struct strbuf *out, struct err *err)
{
	pthread_mutex_lock(&one_at_a_time);
	int r = run_locked(commands, what, out, err);
	pthread_mutex_unlock(&one_at_a_time);
	return r;
}

int nft_run(const char *commands, const char *what, struct err *err)
{
	return nft_ask(commands, what, NULL, err);
}
