// SPDX-License-Identifier: Apache-2.0
/* Passwords: read without echo, kept as a hash only. */
#include <crypt.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "cli/image.h"

int image_hash(const char *password, char *out, size_t size, struct fy_err *e)
{
    struct crypt_data data = {0};
    char salt[CRYPT_GENSALT_OUTPUT_SIZE];
    if (!crypt_gensalt_rn("$y$", 0, NULL, 0, salt, sizeof salt))
        return fy_fail_errno(e, FY_EUNSUPPORTED, errno, "cannot make a salt");
    const char *hash = crypt_rn(password, salt, &data, (int)sizeof data);
    if (!hash || hash[0] == '*')
        return fy_fail_errno(e, FY_EUSAGE, errno, "the password cannot be hashed");
    int n = snprintf(out, size, "%s", hash);
    explicit_bzero(&data, sizeof data);
    return n < (int)size ? 0 : fy_fail(e, FY_EFAIL, "the password's hash is too long");
}

/* A line without its end. -1 when there is none, or it is longer. */
static int read_line(char *out, size_t size)
{
    if (!fgets(out, (int)size, stdin))
        return -1;
    size_t n = strlen(out);
    if (n && out[n - 1] == '\n')
        out[--n] = 0;
    else if (n + 1 == size)
        return -1;
    return n ? 0 : -1;
}

/* Ends the read, so that the terminal gets its echo back. */
static void on_signal(int signo)
{
    (void)signo;
}

static int ask(const char *prompt, char *out, size_t size)
{
    struct termios old, quiet;
    fputs(prompt, stderr);
    if (tcgetattr(STDIN_FILENO, &old) < 0)
        return -1;
    struct sigaction sa = {.sa_handler = on_signal}, before;
    sigaction(SIGINT, &sa, &before);
    quiet = old;
    quiet.c_lflag &= ~(tcflag_t)ECHO;
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    int rc = read_line(out, size);
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &old);
    sigaction(SIGINT, &before, NULL);
    putc('\n', stderr);
    return rc;
}

int image_ask_password(bool from_stdin, char *out, size_t size, struct fy_err *e)
{
    char again[256];
    if (from_stdin)
        return read_line(out, size) == 0 ? 0 : fy_fail(e, FY_EUSAGE, "standard input holds no password");
    if (!isatty(STDIN_FILENO))
        return fy_fail(e, FY_EUSAGE,
                       "nobody could log in: give --password, --password-stdin or --ssh-key FILE");
    int rc = -1;
    if (ask("Password of root in the image: ", out, size) < 0 || ask("Again: ", again, sizeof again) < 0)
        fy_fail(e, FY_EUSAGE, "no password was given");
    else if (strcmp(out, again) != 0)
        fy_fail(e, FY_EUSAGE, "the two passwords differ");
    else
        rc = 0;
    explicit_bzero(again, sizeof again);
    return rc;
}
