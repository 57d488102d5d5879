// SPDX-License-Identifier: Apache-2.0
/* Prints what it was told at COM1, a line each, sums the module, and ends by the debug exit port. With a
 * command line that begins with "keys" it first waits for a key: r resets the machine, any other ends it. */
#include <stdint.h>

#define COM1 0x3f8

static void out8(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static const char *cmdline = "";

static void text(const char *s)
{
    while (*s)
        out8(COM1, (uint8_t)*s++);
}

static void hex(uint32_t v)
{
    int shift = 28;
    while (shift && !(v >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        out8(COM1, (uint8_t) "0123456789abcdef"[v >> shift & 15]);
}

static void field(const char *name, uint32_t v)
{
    text(name);
    hex(v);
}

static const void *at(uint32_t address)
{
    return (const void *)(uintptr_t)address;
}

static uint32_t word(uint32_t address)
{
    return *(const volatile uint32_t *)(uintptr_t)address;
}

static void module(uint32_t start, uint32_t end)
{
    const volatile uint8_t *p = (const volatile uint8_t *)(uintptr_t)start;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < end - start; i++)
        sum += p[i];
    field("module ", end - start);
    field(" sum ", sum);
    text(start % 4096 ? " unaligned\n" : "\n");
}

static void range(uint32_t base, uint32_t bytes, uint32_t type)
{
    field("range ", base);
    field(" ", bytes);
    field(" ", type);
    text("\n");
}

static void information1(uint32_t info)
{
    uint32_t flags = word(info);
    field("flags ", flags);
    field(" lower ", word(info + 4));
    field(" upper ", word(info + 8));
    text("\ncmdline ");
    cmdline = at(word(info + 16));
    text(cmdline);
    text("\nloader ");
    text(at(word(info + 64)));
    text("\n");
    for (uint32_t i = 0; i < word(info + 20); i++)
        module(word(word(info + 24) + 16 * i), word(word(info + 24) + 16 * i + 4));
    uint32_t p = word(info + 48), end = p + word(info + 44);
    for (; p < end; p += word(p) + 4)
        range(word(p + 4), word(p + 12), word(p + 20));
}

static void information2(uint32_t info)
{
    uint32_t end = info + word(info);
    for (uint32_t p = info + 8; p < end && word(p); p += (word(p + 4) + 7) & ~7u) {
        switch (word(p)) {
        case 1:
        case 2:
            text(word(p) == 1 ? "cmdline " : "loader ");
            if (word(p) == 1)
                cmdline = at(p + 8);
            text(at(p + 8));
            text("\n");
            break;
        case 3:
            module(word(p + 8), word(p + 12));
            break;
        case 4:
            field("lower ", word(p + 8));
            field(" upper ", word(p + 12));
            text("\n");
            break;
        case 6:
            for (uint32_t q = p + 16; q < p + word(p + 4); q += word(p + 8))
                range(word(q), word(q + 8), word(q + 16));
            break;
        case 15:
            text("acpi ");
            for (int i = 0; i < 7; i++)
                out8(COM1, *((const uint8_t *)at(p + 8) + i));
            text("\n");
            break;
        default:
            field("tag ", word(p));
            text("\n");
        }
    }
}

void guest_main(uint32_t magic, uint32_t info);
void guest_main(uint32_t magic, uint32_t info)
{
    field("multiboot ", magic);
    text("\n");
    if (magic == 0x2badb002)
        information1(info);
    else if (magic == 0x36d76289)
        information2(info);
    text("end\n");
    if (cmdline[0] == 'k' && cmdline[1] == 'e' && cmdline[2] == 'y' && cmdline[3] == 's') {
        while (!(in8(COM1 + 5) & 1))
            __asm__ volatile("pause");
        if (in8(COM1) == 'r')
            out8(0xcf9, 6);
    }
    __asm__ volatile("outl %0, %1" : : "a"(21u), "Nd"((uint16_t)0xf4));
}
