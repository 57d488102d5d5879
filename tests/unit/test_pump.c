// SPDX-License-Identifier: Apache-2.0
/* The pump and the sink against each other over TLS, while a writer dirties memory. Log-dirty is a stand-in
 * here (a bitmap behind a lock), the rest is the real thing; the whole path with ferry-hv is in
 * tests/integration. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/base/bitmap.h"
#include "hv/base/io.h"
#include "hv/base/msg.h"
#include "hv/control/client.h"
#include "migrate/identity.h"
#include "migrate/receiver.h"
#include "migrate/sender.h"
#include "migrate/stream.h"
#include "migrate/verify.h"

#define PAGES 6000u /* not a multiple of a range */
#define CHANNELS 2u

struct stand {
    int src, dst; /* memfds */
    uint8_t *mem;
    uint64_t *dirty, *taken; /* taken is what the pump reads */
    pthread_mutex_t lock;
    int serve_sock;
    pthread_t server;
    struct fy_ctl *ctl;
    int key, cert;
    uint8_t digest[32];
};

/* Answers TrackerTake as ferry-hv does: moves the range's bits. */
static void *serve(void *arg)
{
    struct stand *s = arg;
    static uint8_t buf[FY_MSG_MAX];
    struct fy_err e;
    long n;
    while ((n = fy_msg_recv(s->serve_sock, buf, NULL, NULL, &e)) > 0) {
        Ferry__Request *req = ferry__request__unpack(NULL, (size_t)n, buf);
        if (!req)
            break;
        Ferry__TrackerTakeReply reply = FERRY__TRACKER_TAKE_REPLY__INIT;
        Ferry__Response resp = FERRY__RESPONSE__INIT;
        Ferry__ControlOut out = FERRY__CONTROL_OUT__INIT;
        pthread_mutex_lock(&s->lock);
        uint64_t first = req->tracker_take->first;
        for (uint64_t i = first; i < first + req->tracker_take->count; i++) {
            if (fy_bit_test(s->dirty, i))
                fy_bit_set(s->taken, i);
            else
                fy_bit_clear(s->taken, i);
            fy_bit_clear(s->dirty, i);
        }
        pthread_mutex_unlock(&s->lock);
        resp.id = req->id;
        resp.op_case = FERRY__RESPONSE__OP_TRACKER_TAKE;
        resp.tracker_take = &reply;
        out.kind_case = FERRY__CONTROL_OUT__KIND_RESPONSE;
        out.response = &resp;
        size_t len = ferry__control_out__pack(&out, buf);
        ferry__request__free_unpacked(req, NULL);
        if (fy_msg_send(s->serve_sock, buf, len, NULL, 0, &e) < 0)
            break;
    }
    return NULL;
}

static void write_page(struct stand *s, uint64_t page, unsigned kind, uint64_t seed)
{
    uint8_t bytes[4096];
    for (size_t i = 0; i < sizeof bytes; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        bytes[i] = kind == 0 ? 0 : kind == 1 ? (uint8_t)('a' + (i / 7 + page) % 20) : (uint8_t)(seed >> 33);
    }
    /* By pwrite, as the pump reads by pread: the kernel orders them. */
    assert_int_equal(fy_pwrite_all(s->src, bytes, sizeof bytes, (off_t)(page * 4096)), 0);
    pthread_mutex_lock(&s->lock);
    fy_bit_set(s->dirty, page);
    pthread_mutex_unlock(&s->lock);
}

static int setup(void **state)
{
    struct stand *s = calloc(1, sizeof *s);
    struct fy_err e;
    int sv[2];
    s->src = memfd_create("src", MFD_CLOEXEC);
    s->dst = memfd_create("dst", MFD_CLOEXEC);
    assert_int_equal(ftruncate(s->src, PAGES * 4096l), 0);
    assert_int_equal(ftruncate(s->dst, PAGES * 4096l), 0);
    s->dirty = calloc(FY_BITMAP_WORDS(PAGES), 8);
    s->taken = calloc(FY_BITMAP_WORDS(PAGES), 8);
    fy_bits_set(s->dirty, 0, PAGES);
    pthread_mutex_init(&s->lock, NULL);
    assert_int_equal(fy_msg_pair(sv, &e), 0);
    s->serve_sock = sv[0];
    s->ctl = fy_ctl_new(sv[1], 10000, &e);
    assert_int_equal(pthread_create(&s->server, NULL, serve, s), 0);
    s->key = memfd_create("key", MFD_CLOEXEC);
    s->cert = memfd_create("cert", MFD_CLOEXEC);
    assert_int_equal(fy_identity_make("alpha", s->key, s->cert, &e), 0);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct stand *s = *state;
    fy_ctl_free(s->ctl);
    pthread_join(s->server, NULL);
    close(s->serve_sock);
    close(s->src);
    close(s->dst);
    close(s->key);
    close(s->cert);
    free(s->dirty);
    free(s->taken);
    pthread_mutex_destroy(&s->lock);
    free(s);
    return 0;
}

/* --- TLS ends
 * ------------------------------------------------------------------------------------------------ */

struct end {
    int sock;
    struct fy_tls *tls;
    struct fy_chan *chan;
    struct fy_err err;
};

static void *connect_end(void *arg)
{
    struct end *x = arg;
    x->chan = fy_chan_new(x->sock, x->tls, &x->err);
    return NULL;
}

/* Digest of the certificate in `cert`, learned by a handshake that accepts anyone. */
static void learn_digest(struct stand *s)
{
    struct fy_err e;
    int sv[2];
    pthread_t t;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    struct end client = {.sock = sv[0], .tls = fy_tls_new(s->key, s->cert, false, NULL, 0, true, &e)};
    struct end server = {.sock = sv[1], .tls = fy_tls_new(s->key, s->cert, true, NULL, 0, true, &e)};
    pthread_create(&t, NULL, connect_end, &server);
    connect_end(&client);
    pthread_join(t, NULL);
    assert_non_null(client.chan);
    assert_non_null(server.chan);
    fy_chan_peer_digest(client.chan, s->digest);
    fy_chan_free(client.chan);
    fy_chan_free(server.chan);
    fy_tls_free(client.tls);
    fy_tls_free(server.tls);
}

static void strangers_are_refused(void **state)
{
    struct stand *s = *state;
    struct fy_err e;
    int sv[2];
    pthread_t t;
    struct fy_pin pin = {.host = "somebody else"};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    struct end client = {.sock = sv[0], .tls = fy_tls_new(s->key, s->cert, false, &pin, 1, false, &e)};
    struct end server = {.sock = sv[1], .tls = fy_tls_new(s->key, s->cert, true, NULL, 0, true, &e)};
    pthread_create(&t, NULL, connect_end, &server);
    connect_end(&client);
    pthread_join(t, NULL);
    assert_null(client.chan);
    assert_int_equal(client.err.code, FY_EAUTH);
    assert_null(server.chan);
    fy_tls_free(client.tls);
    fy_tls_free(server.tls);
}

/* --- moving
 * -------------------------------------------------------------------------------------------------- */

struct writer {
    struct stand *s;
    atomic_bool stop;
};

static void *write_main(void *arg)
{
    struct writer *w = arg;
    uint64_t x = 7;
    while (!atomic_load(&w->stop)) {
        x = x * 6364136223846793005ull + 1;
        write_page(w->s, (x >> 33) % PAGES, (unsigned)(x >> 60) % 3, x);
    }
    return NULL;
}

static void run_round(struct fy_pump *p, struct fy_sink *k, uint64_t round, bool each, int wake,
                      int sink_wake)
{
    struct fy_err e = {0};
    uint64_t v;
    uint64_t rounds = 0;
    int rc;
    fy_pump_begin(p, round, each, each);
    while ((rc = fy_pump_poll(p, &e)) == 0)
        assert_int_equal(read(wake, &v, 8), 8);
    assert_int_equal(rc, 1);
    while ((rc = fy_sink_poll(k, &rounds, NULL, &e)) == 0 && rounds < round)
        assert_int_equal(read(sink_wake, &v, 8), 8);
    assert_int_equal(rc, 0);
}

static void move(struct stand *s, const char *codec, bool tls, bool map)
{
    struct fy_err e = {0};
    struct fy_pin pin = {.host = "alpha"};
    struct fy_rate rate;
    struct fy_chan *chans[CHANNELS];
    fy_rate_init(&rate, 0);
    learn_digest(s);
    memcpy(pin.digest, s->digest, sizeof pin.digest);
    struct fy_tls *client = fy_tls_new(s->key, s->cert, false, &pin, 1, false, &e);
    struct fy_tls *server = fy_tls_new(s->key, s->cert, true, &pin, 1, false, &e);
    struct fy_sink_config sc = {
        .mem_fd = s->dst, .pages = PAGES, .count = CHANNELS, .map = map, .tls = tls ? server : NULL};
    sc.wake_fd = eventfd(0, 0);
    memset(sc.ticket, 5, sizeof sc.ticket);
    memcpy(sc.peer_digest, s->digest, sizeof sc.peer_digest);
    struct fy_sink *sink = fy_sink_new(&sc, &e);
    assert_non_null(sink);
    for (unsigned i = 0; i < CHANNELS; i++) {
        int sv[2];
        uint8_t proof[32];
        struct fy_flow flow = {0};
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
        fy_sink_add(sink, i + 1, sv[1]);
        chans[i] = fy_chan_new(sv[0], tls ? client : NULL, &e);
        assert_non_null(chans[i]);
        fy_ticket_proof(sc.ticket, i + 1, proof);
        assert_int_equal(fy_record_send(chans[i], &flow, FY_REC_TICKET, proof, 32, true, &e), 0);
    }
    struct fy_pump_config pc = {.mem_fd = s->src,
                                .pages = PAGES,
                                .bitmap = s->taken,
                                .ctl = s->ctl,
                                .chans = chans,
                                .count = CHANNELS,
                                .codecs = FY_CODECS_ALL,
                                .map = map,
                                .sealed = true,
                                .rate = &rate};
    pc.wake_fd = eventfd(0, 0);
    fy_codec_parse(codec, false, 0, &pc.codec, &e);
    struct fy_pump *pump = fy_pump_new(&pc, &e);
    assert_non_null(pump);

    for (unsigned i = 0; i < PAGES; i += 3) /* two thirds stay holes until the writer comes */
        write_page(s, i, i % 3 + i / 1000 % 3, i);
    struct writer w = {.s = s};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, write_main, &w), 0);
    for (uint64_t round = 1; round <= 4; round++)
        run_round(pump, sink, round, true, pc.wake_fd, sc.wake_fd);
    atomic_store(&w.stop, true);
    pthread_join(t, NULL);
    run_round(pump, sink, 5, true, pc.wake_fd, sc.wake_fd);

    uint64_t a = 0;
    uint64_t b = 1;
    assert_int_equal(fy_memory_digest(s->src, PAGES, 2, &a, &e), 0);
    assert_int_equal(fy_memory_digest(s->dst, PAGES, 1, &b, &e), 0);
    assert_true(a == b);
    for (unsigned i = 0; i < CHANNELS; i++) {
        uint64_t r1, d1, r2, d2;
        fy_pump_summary(pump, i, &r1, &d1);
        fy_sink_summary(sink, i + 1, &r2, &d2);
        assert_true(r1 == r2 && d1 == d2 && r1 >= 5);
    }
    fy_pump_stop(pump);
    fy_pump_free(pump);
    for (unsigned i = 0; i < CHANNELS; i++)
        fy_chan_free(chans[i]);
    fy_sink_free(sink);
    fy_tls_free(client);
    fy_tls_free(server);
    fy_rate_destroy(&rate);
    close(pc.wake_fd);
    close(sc.wake_fd);
}

static void moves_with_tls_auto(void **state)
{
    move(*state, "auto", true, false);
}

static void moves_with_tls_zstd(void **state)
{
    move(*state, "zstd", true, false);
}

static void moves_in_clear_raw(void **state)
{
    move(*state, "none", false, false);
}

/* Pages are encrypted from where the guest writes them, and read to where they belong. */
static void moves_mapped_with_tls_raw(void **state)
{
    move(*state, "none", true, true);
}

static void moves_mapped_with_tls_auto(void **state)
{
    move(*state, "auto", true, true);
}

static void moves_mapped_in_clear(void **state)
{
    move(*state, "none", false, true);
}

static void moves_with_tls_raw(void **state)
{
    move(*state, "none", true, false);
}

/* Untouched memory costs nothing on either side. */
static void holes_stay_holes(void **state)
{
    struct stand *s = *state;
    move(s, "auto", true, false);
    struct stat src;
    struct stat dst;
    fstat(s->src, &src);
    fstat(s->dst, &dst);
    assert_true(dst.st_blocks <= src.st_blocks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(strangers_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(moves_with_tls_auto, setup, teardown),
        cmocka_unit_test_setup_teardown(moves_with_tls_zstd, setup, teardown),
        cmocka_unit_test_setup_teardown(moves_in_clear_raw, setup, teardown),
        cmocka_unit_test_setup_teardown(moves_with_tls_raw, setup, teardown),
        cmocka_unit_test_setup_teardown(moves_mapped_with_tls_raw, setup, teardown),
        cmocka_unit_test_setup_teardown(moves_mapped_with_tls_auto, setup, teardown),
        cmocka_unit_test_setup_teardown(moves_mapped_in_clear, setup, teardown),
        cmocka_unit_test_setup_teardown(holes_stay_holes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
