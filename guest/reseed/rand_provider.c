// SPDX-License-Identifier: Apache-2.0
/*
 * An OpenSSL 3 provider of random numbers for programs in cloned machines (docs/identity.md). OpenSSL's own generators keep a
 * state in the process, which clones share. This one has no state: each request is answered by the kernel, whose generator a
 * clone's agent seeds before any process goes on. So there is nothing to notice and nothing to reseed.
 *
 * An OpenSSL configuration (guest/reseed/openssl.cnf) loads it and names its generator, FORKD-KERNEL. provider-rand(7) says what
 * the functions do. Any thread.
 */
#include <errno.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdlib.h>
#include <sys/random.h>

enum { STRENGTH = 256, REQUEST_MAX = 1 << 16 };

struct source {
	int state;
};

static void *source_new(void *provider, void *parent, const OSSL_DISPATCH *parent_calls)
{
	struct source *s = malloc(sizeof(*s));

	(void)provider;
	(void)parent;
	(void)parent_calls;
	if (s)
		s->state = EVP_RAND_STATE_UNINITIALISED;
	return s;
}

static void source_free(void *source)
{
	free(source);
}

static int source_instantiate(void *source, unsigned strength, int prediction_resistance, const unsigned char *words,
			      size_t words_len, const OSSL_PARAM params[])
{
	struct source *s = source;

	(void)prediction_resistance;
	(void)words;
	(void)words_len;
	(void)params;
	if (strength > STRENGTH)
		return 0;
	s->state = EVP_RAND_STATE_READY;
	return 1;
}

static int source_uninstantiate(void *source)
{
	((struct source *)source)->state = EVP_RAND_STATE_UNINITIALISED;
	return 1;
}

static int source_generate(void *source, unsigned char *out, size_t len, unsigned strength, int prediction_resistance,
			   const unsigned char *words, size_t words_len)
{
	(void)source;
	(void)prediction_resistance;
	(void)words;
	(void)words_len;
	if (strength > STRENGTH)
		return 0;
	while (len > 0) {
		ssize_t n = getrandom(out, len, 0);
		if (n < 0 && errno != EINTR)
			return 0;
		if (n > 0) {
			out += n;
			len -= (size_t)n;
		}
	}
	return 1;
}

static int source_reseed(void *source, int prediction_resistance, const unsigned char *entropy, size_t entropy_len,
			 const unsigned char *words, size_t words_len)
{
	(void)source;
	(void)prediction_resistance;
	(void)entropy;
	(void)entropy_len;
	(void)words;
	(void)words_len;
	return 1;
}

/* There is nothing to lock. */
static int source_lock(void *source)
{
	(void)source;
	return 1;
}

static void source_unlock(void *source)
{
	(void)source;
}

static const OSSL_PARAM *source_gettable(void *source, void *provider)
{
	static const OSSL_PARAM params[] = {
		OSSL_PARAM_int(OSSL_RAND_PARAM_STATE, NULL),
		OSSL_PARAM_uint(OSSL_RAND_PARAM_STRENGTH, NULL),
		OSSL_PARAM_size_t(OSSL_RAND_PARAM_MAX_REQUEST, NULL),
		OSSL_PARAM_END,
	};

	(void)source;
	(void)provider;
	return params;
}

static int source_get(void *source, OSSL_PARAM params[])
{
	OSSL_PARAM *p = OSSL_PARAM_locate(params, OSSL_RAND_PARAM_STATE);

	if (p && !OSSL_PARAM_set_int(p, ((struct source *)source)->state))
		return 0;
	p = OSSL_PARAM_locate(params, OSSL_RAND_PARAM_STRENGTH);
	if (p && !OSSL_PARAM_set_uint(p, STRENGTH))
		return 0;
	p = OSSL_PARAM_locate(params, OSSL_RAND_PARAM_MAX_REQUEST);
	return !p || OSSL_PARAM_set_size_t(p, REQUEST_MAX);
}

#define CALL(id, function)                       \
	{                                        \
		(id), (void (*)(void))(function) \
	}

static const OSSL_DISPATCH source_calls[] = {
	CALL(OSSL_FUNC_RAND_NEWCTX, source_new),
	CALL(OSSL_FUNC_RAND_FREECTX, source_free),
	CALL(OSSL_FUNC_RAND_INSTANTIATE, source_instantiate),
	CALL(OSSL_FUNC_RAND_UNINSTANTIATE, source_uninstantiate),
	CALL(OSSL_FUNC_RAND_GENERATE, source_generate),
	CALL(OSSL_FUNC_RAND_RESEED, source_reseed),
	CALL(OSSL_FUNC_RAND_ENABLE_LOCKING, source_lock),
	CALL(OSSL_FUNC_RAND_LOCK, source_lock),
	CALL(OSSL_FUNC_RAND_UNLOCK, source_unlock),
	CALL(OSSL_FUNC_RAND_GETTABLE_CTX_PARAMS, source_gettable),
	CALL(OSSL_FUNC_RAND_GET_CTX_PARAMS, source_get),
	{ 0, NULL },
};

static const OSSL_ALGORITHM *query(void *provider, int operation, int *no_cache)
{
	static const OSSL_ALGORITHM algorithms[] = {
		{ "FORKD-KERNEL", "provider=forkd", source_calls, "the kernel's random numbers" },
		{ NULL, NULL, NULL, NULL },
	};

	(void)provider;
	*no_cache = 0;
	return operation == OSSL_OP_RAND ? algorithms : NULL;
}

static const OSSL_DISPATCH provider_calls[] = {
	CALL(OSSL_FUNC_PROVIDER_QUERY_OPERATION, query),
	{ 0, NULL },
};

OSSL_provider_init_fn OSSL_provider_init;

int OSSL_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **ret_calls,
		       void **ret_provider)
{
	static char context; /* OpenSSL wants one that is not NULL */

	(void)handle;
	(void)in;
	*ret_calls = provider_calls;
	*ret_provider = &context;
	return 1;
}
