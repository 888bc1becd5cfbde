// SPDX-License-Identifier: Apache-2.0
/*
 * The inside of virtio-blk. blk.c takes the guest's requests and answers them. What operations a
 * request needs say blk_steps.c for a raw image and blk_chain.c for a qcow2 image with what is behind
 * it; blk_io.c does the operations. blk_image.c opens, locks and resizes the image, and has the
 * configuration space; blk_layers.c opens the files behind a qcow2 image. All is guarded by the
 * device's lock.
 */
#ifndef VMM_VIRTIO_BLK_H
#define VMM_VIRTIO_BLK_H

#include "common/uring.h"
#include "vmm/core/loop.h"
#include "vmm/virtio/kinds.h"
#include "vmm/virtio/qcow2.h"

enum { SECTOR_SHIFT = 9, SECTOR_BYTES = 512, ID_BYTES = 20, INLINE_SEGMENTS = 4, RING_MAX = 1024 };
enum {
	F_SEG_MAX = 2,
	F_RO = 5,
	F_BLK_SIZE = 6,
	F_FLUSH = 9,
	F_TOPOLOGY = 10,
	F_CONFIG_WCE = 11,
	F_MQ = 12,
	F_DISCARD = 13,
	F_WRITE_ZEROES = 14
};
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { WRITE_ZEROES_UNMAP = 1 };

struct geometry {
	uint16_t cylinders;
	uint8_t heads, sectors;
};

/* virtio 1.2, 5.2.4; names as in state.json. */
struct blk_space {
	uint64_t capacity; /* sectors */
	uint32_t size_max, seg_max;
	struct geometry geometry;
	uint32_t blk_size;
	uint8_t physical_block_exp, alignment_offset;
	uint16_t min_io_size;
	uint32_t opt_io_size;
	uint8_t writeback, unused;
	uint16_t num_queues;
	uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
	uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap, unused1[3];
};
enum { SPACE_BYTES = 60 };

/*
 * The ways to write zeroes are tried one after the other, until the file system has one of them. The
 * guest's wish for unmapping decides which way is the first.
 */
enum zero_way { ZERO_FIRST, ZERO_SECOND, ZERO_WRITE };
enum { ZERO_WRITE_MAX_BYTES = 64 << 20 }; /* of zeroes that are written; the guest writes more of them itself */
/*
 * The steps of a piece of a request. An unaligned write reads the blocks at the write's edges first. A
 * sync comes after all pieces.
 */
enum step { STEP_NONE, STEP_READ_FIRST, STEP_READ_LAST, STEP_MAIN, STEP_SYNC };

/* Clusters of a qcow2 image that a request gives a new place: see blk_chain.c. */
struct rewrite {
	uint64_t from, to; /* of the guest's bytes, whole clusters; empty: there is none */
	uint64_t end;      /* where the request's own bytes end */
	uint64_t place;    /* in the file */
	uint8_t *buf;      /* the one cluster, when the request does not write all of it */
	uint64_t filled;   /* up to here `buf` has what was there before */
	uint64_t part;     /* bytes that are read into it just now */
	bool whole;        /* `buf` is not zeroes, and is written whole */
	uint64_t written;  /* of it */
};

struct request {
	struct request *next;    /* in the list of free ones, or in the lane */
	uint8_t *status;         /* in guest RAM */
	uint64_t offset, len;    /* in the image; len: bytes of data */
	const struct iovec *iov; /* what is read or written: guest_iov, or `one` */
	unsigned n_iov;
	struct iovec one;
	void *bounce;            /* whole blocks around the data, see needs_bounce() */
	struct iovec *guest_iov; /* the guest's data segments: own, or `few` */
	unsigned n_guest_iov;
	struct iovec few[INLINE_SEGMENTS];
	uint32_t held; /* bytes of blk->held */
	uint32_t type, flags;
	uint64_t at, size; /* the piece under way: less than the whole only for zeroes */
	enum zero_way zero_way;
	enum step step;
	bool partial; /* a write that is not aligned to blk->align.io */
	bool running; /* the ring has the request */
	uint8_t chain_step;
	bool unsynced;         /* what a qcow2 image got is durable after a commit */
	int failed;            /* -errno of an operation */
	struct iovec *cut_seg; /* the last segment of the operation under way, which is shorter meanwhile */
	size_t cut;            /* by so much */
	struct rewrite rewrite;
	struct qcow2_commit *commit;
	uint16_t head, queue;
	uint64_t began_ns;
};

/* The alignment that the image needs, whatever the guest was told. Bytes, powers of two. */
struct blk_align {
	uint32_t io, mem; /* of offset and length, and of memory; 1 without direct=on */
	uint32_t zero;    /* of fallocate() */
};

/* A file of a qcow2 image's chain; the image itself is the first. */
struct layer {
	int fd;              /* never O_DIRECT; of the first: blk->lock_fd */
	int lock_fd;         /* of the others: see blk->lock_fd */
	struct qcow2 *qcow2; /* NULL: a raw file */
	uint64_t bytes;
	char *path;
	dev_t dev;
	ino_t ino;
};
enum { LAYERS_MAX = 16 };

struct blk {
	struct virtio_dev vdev;
	struct blk_space space;
	const struct device_env *env;
	char *path;
	char serial[ID_BYTES];
	int fd;
	int lock_fd;    /* the lock's own open file: a ring lets go of its files some time after the process ended */
	uint64_t bytes; /* of the image, as the guest sees it */
	struct layer *layers; /* of a qcow2 image; NULL: a raw one */
	unsigned n_layers;
	unsigned n_rewriting, n_filling; /* requests with a rewrite under way; those of them that have a buffer */
	struct request *waiting;         /* for another request's rewrite, commit or write; the last comes first */
	bool wake;                       /* these are to be looked at */
	struct blk_align align;
	bool readonly, direct, no_uring, has_ring;
	uint8_t lock_granularity;
	struct io_uring ring;
	struct source done; /* eventfd of completions that were not immediate */
	struct loop *loop;  /* the loop that waits for these completions */
	struct request *requests, *free_list;
	struct request *lane, *lane_last; /* see advance_lane() */
	unsigned in_flight, n_requests;
	uint64_t held;     /* bytes of memory that requests have, see hold() */
	uint64_t answered; /* queues modulo 64 that are to be interrupted */
	bool starved;      /* chains wait in their rings until a request is answered: all queues are looked at then */
	uint64_t ring_faults;
};

static inline uint64_t blk_inside(const struct blk *blk, uint64_t off)
{
	return off & (blk->align.io - 1);
}

static inline uint64_t blk_down(const struct blk *blk, uint64_t off)
{
	return off - blk_inside(blk, off);
}

static inline uint64_t blk_up(const struct blk *blk, uint64_t off)
{
	return blk_down(blk, off + blk->align.io - 1);
}

static inline bool blk_is_write(const struct request *rq)
{
	return rq->type == T_OUT || rq->type == T_DISCARD || rq->type == T_WRITE_ZEROES;
}

/* ---- blk.c ---- */

/* Answers a request of the guest that was done with `res`. */
void blk_complete(struct blk *blk, struct request *rq, int res);

/* ---- blk_steps.c ---- */

enum op_kind { OP_READ, OP_WRITE, OP_FLUSH, OP_ZERO };
struct op {
	enum op_kind kind;
	const struct iovec *iov;
	unsigned n_iov;
	uint64_t off, len;
	int flags;     /* RWF_… of a write, FALLOC_FL_… of zeroes */
	unsigned file; /* blk_file() */
};

/*
 * Files by number: 0 is the image, with direct=on by O_DIRECT; 1 + i is layer i, through the page cache.
 * File 1 is not for the ring.
 */
static inline int blk_file(const struct blk *blk, unsigned file)
{
	return file == 0 ? blk->fd : blk->layers[file - 1].fd;
}

void blk_begin(const struct blk *blk, struct request *rq);
struct op blk_next_op(const struct blk *blk, struct request *rq);
/*
 * To be called after an operation came back with *res: whether the request has another operation. If
 * not, *res is the result of the request.
 */
bool blk_has_next_op(const struct blk *blk, struct request *rq, int *res);
bool blk_writes_through(const struct blk *blk);
/* FALLOC_FL_… of the request's present way to make zeroes. */
int blk_zero_mode(const struct request *rq);

/* ---- blk_chain.c ---- */

enum chain_next { CHAIN_AGAIN, CHAIN_OP, CHAIN_WAIT, CHAIN_END };
void blk_chain_begin(struct request *rq);
/*
 * CHAIN_OP: *op is to be done, and blk_chain_done() told of it. CHAIN_WAIT: what another request does
 * comes first; when blk->wake is set, this is asked again. CHAIN_END: *ret_res is the request's result.
 */
enum chain_next blk_chain_next(struct blk *blk, struct request *rq, struct op *op, int *ret_res);
void blk_chain_done(struct request *rq, int res);

/* ---- blk_layers.c ---- */

/* Opens the chain of the qcow2 image that blk has open. Takes the size of the disk from it. */
MUST_CHECK int blk_open_layers(struct blk *blk, const struct disk_config *cfg, struct err *err);
void blk_close_layers(struct blk *blk);
/* As qcow2_map(), through all layers from `first` on. *ret_layer: of a run of data or compressed data. */
MUST_CHECK int blk_map(struct blk *blk, unsigned first, uint64_t off, uint64_t len, struct qcow2_run *ret,
		       unsigned *ret_layer);

/* ---- blk_io.c ---- */

MUST_CHECK int blk_open_ring(struct blk *blk, struct err *err);
/*
 * Does a request that was checked: at once, or with the next blk_submit(). The answer may come later.
 */
void blk_run(struct blk *blk, struct request *rq);
void blk_submit(struct blk *blk);
/*
 * The status S_… that `res` means for the guest. The rest of a transfer that came back short is done
 * here.
 */
uint8_t blk_status(struct blk *blk, const struct request *rq, int res);
/* Interrupts the queues that have answers. */
void blk_interrupt(struct blk *blk);
/* Answers requests that completed later. */
void blk_on_done(struct source *s, uint32_t events);
/* Waits until nothing is in flight. */
void blk_drain(struct virtio_dev *vdev);

/* ---- blk_image.c ---- */

MUST_CHECK int blk_open_image(struct blk *blk, struct disk_config *cfg, struct err *err);
void blk_close_image(struct blk *blk);
/* Writes the device's node in state.json, and reads that node. */
void blk_save(struct virtio_dev *vdev, struct strbuf *out);
int blk_load(struct virtio_dev *vdev, const struct json_node *state, struct err *err);

#endif
