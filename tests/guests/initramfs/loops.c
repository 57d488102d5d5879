// SPDX-License-Identifier: Apache-2.0
/* The init of a benchmark's guest: FNV-1a 64 or SHA-256 over a buffer, plain C, between two lines on the
 * console. Kernel command line: loop=fnv1a|sha256 mib=N (how much is hashed; the buffer has 1 MiB). */
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BUFFER (1u << 20)

static uint8_t buffer[BUFFER];

static uint64_t fnv1a(const uint8_t *p, size_t n, uint64_t h)
{
    while (n--)
        h = (h ^ *p++) * 0x100000001b3ull;
    return h;
}

static uint32_t rotr(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

/* FIPS 180-4, section 6.2.2. */
static void sha256_block(uint32_t h[8], const uint8_t *p)
{
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64];
    for (unsigned i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 |
               p[4 * i + 3];
    for (unsigned i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10);
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], z = h[7];
    for (unsigned i = 0; i < 64; i++) {
        uint32_t t1 = z + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i];
        uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        z = g;
        g = f;
        f = e;
        e = d + t1;
        d = c;
        c = b;
        b = a;
        a = t1 + t2;
    }
    const uint32_t s[8] = {a, b, c, d, e, f, g, z};
    for (unsigned i = 0; i < 8; i++)
        h[i] += s[i];
}

static void say(const char *format, ...)
{
    char line[256];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(line, sizeof line - 1, format, ap);
    va_end(ap);
    line[n++] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)n) != n)
        _exit(1);
}

static void read_options(char *name, size_t room, unsigned long *mib)
{
    char line[4096] = "";
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
    line[n < 0 ? 0 : n] = 0;
    for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
        if (!strncmp(word, "loop=", 5))
            snprintf(name, room, "%s", word + 5);
        if (!strncmp(word, "mib=", 4))
            *mib = strtoul(word + 4, NULL, 10);
    }
}

int main(void)
{
    char name[16] = "fnv1a";
    unsigned long mib = 1;
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    int console = open("/dev/console", O_RDWR);
    if (console >= 0)
        for (int fd = 0; fd < 3; fd++)
            dup2(console, fd);
    syscall(SYS_syslog, 8, NULL, 1); /* kernel messages off the console */
    say("!init");
    read_options(name, sizeof name, &mib);
    for (size_t i = 0; i < BUFFER; i++)
        buffer[i] = (uint8_t)(i * 2654435761u >> 13);
    uint64_t h = 0xcbf29ce484222325ull;
    uint32_t s[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    say("!begin %s %lu", name, mib);
    for (unsigned long i = 0; i < mib; i++) {
        if (strcmp(name, "sha256") != 0)
            h = fnv1a(buffer, BUFFER, h);
        else
            for (size_t at = 0; at < BUFFER; at += 64)
                sha256_block(s, buffer + at);
    }
    say("!end %016llx",
        strcmp(name, "sha256") != 0 ? (unsigned long long)h : (unsigned long long)s[0] << 32 | s[1]);
    sync();
    reboot(RB_POWER_OFF);
    return 0;
}
