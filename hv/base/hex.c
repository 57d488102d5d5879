// SPDX-License-Identifier: Apache-2.0
#include "hv/base/hex.h"

#include <stdio.h>
#include <string.h>

#include "hv/base/io.h"

void fy_hex(const void *buf, size_t len, char *out)
{
    const uint8_t *p = buf;
    for (size_t i = 0; i < len; i++)
        snprintf(out + 2 * i, 3, "%02x", p[i]);
    out[2 * len] = 0;
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int fy_unhex(const char *text, void *buf, size_t len)
{
    uint8_t *p = buf;
    if (strlen(text) != 2 * len)
        return -1;
    for (size_t i = 0; i < len; i++) {
        int hi = digit(text[2 * i]);
        int lo = digit(text[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return -1;
        p[i] = (uint8_t)(hi << 4 | lo);
    }
    return 0;
}

void fy_uuid_format(const uint8_t uuid[FY_UUID_LEN], char out[FY_UUID_TEXT])
{
    char hex[33];
    fy_hex(uuid, FY_UUID_LEN, hex);
    snprintf(out, FY_UUID_TEXT, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

int fy_uuid_parse(const char *text, uint8_t uuid[FY_UUID_LEN])
{
    char hex[33];
    size_t n = 0;
    if (strlen(text) != FY_UUID_TEXT - 1)
        return -1;
    for (size_t i = 0; i < FY_UUID_TEXT - 1; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash != (text[i] == '-'))
            return -1;
        if (!dash)
            hex[n++] = text[i];
    }
    hex[n] = 0;
    return fy_unhex(hex, uuid, FY_UUID_LEN);
}

void fy_uuid_new(uint8_t uuid[FY_UUID_LEN])
{
    fy_random(uuid, FY_UUID_LEN);
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
}
