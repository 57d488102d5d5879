// SPDX-License-Identifier: Apache-2.0
/* main() of a fuzz target that is built without the fuzzer: every file of the folders given, cut at every
 * length (up to a limit) and with every bit flipped (likewise). */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>

#include "hv/base/io.h"
#include "tests/fuzz/fuzz.h"

#define SEED_MAX (1 << 20)
#define MUTATIONS 2000

static uint64_t runs;

/* A copy of exact size, so that a sanitizer sees a read past its end. */
static void run(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    MUST(copy);
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    runs++;
}

static int run_folder(const char *path)
{
    DIR *dir = opendir(path);
    int files = 0;
    if (!dir) {
        perror(path);
        return -1;
    }
    for (struct dirent *d; (d = readdir(dir));) {
        char *buf;
        size_t len;
        struct fy_err e;
        if (d->d_name[0] == '.')
            continue;
        if (fy_read_file(dirfd(dir), d->d_name, SEED_MAX, &buf, &len, &e)) {
            fprintf(stderr, "%s: %s\n", d->d_name, e.text);
            closedir(dir);
            return -1;
        }
        run((uint8_t *)buf, len);
        for (size_t i = 0, step = len / MUTATIONS + 1; i < len; i += step)
            run((uint8_t *)buf, i);
        for (size_t i = 0, step = len * 8 / MUTATIONS + 1; i < len * 8; i += step) {
            buf[i / 8] = (char)(buf[i / 8] ^ 1 << i % 8);
            run((uint8_t *)buf, len);
            buf[i / 8] = (char)(buf[i / 8] ^ 1 << i % 8);
        }
        free(buf);
        files++;
    }
    closedir(dir);
    return files;
}

int main(int argc, char **argv)
{
    int files = 0;
    for (int i = 1; i < argc; i++) {
        int n = run_folder(argv[i]);
        if (n < 0)
            return 1;
        files += n;
    }
    if (!files) {
        fprintf(stderr, "no seeds: name corpus folders\n");
        return 1;
    }
    printf("%d seeds, %llu runs\n", files, (unsigned long long)runs);
    return 0;
}
