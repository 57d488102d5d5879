// SPDX-License-Identifier: Apache-2.0
/* What the assembler and C share: selectors, where things lie, the slots of in[] and out[]. */
#ifndef SYSGUEST_LAYOUT_H
#define SYSGUEST_LAYOUT_H

#define CODE64 0x08
#define DATA0 0x10
#define CODE32 0x18
#define CODE32U 0x23
#define DATA3 0x2b
#define CODE64U 0x33
#define CODE16 0x38
#define DATA16 0x40
#define TSS64 0x48
#define TSS64_AP 0x58
#define TSS32 0x68
#define LDT 0x70
#define TEST 0x80 /* the first of TEST_COUNT descriptors that tests make */
#define TEST_COUNT 32

#define LOW 0x8000 /* real mode's code and data, copied here; the other processor begins at its start */
#define LOW_SEG 0x800
#define USER 0x40000000 /* the first GiB again, open to ring 3 */

/* slots of 8 bytes */
#define S_AX 0
#define S_CX 1
#define S_DX 2
#define S_BX 3
#define S_SP 4
#define S_BP 5
#define S_SI 6
#define S_DI 7
#define S_R8 8
#define S_IP 9
#define S_CS 10
#define S_FL 11
#define S_SS 12
#define S_DS 13
#define S_ES 14
#define S_FS 15
#define S_GS 16
#define S_CR0 17
#define S_CR2 18
#define S_CR3 19
#define S_CR4 20
#define S_VEC 21
#define S_ERR 22
#define S_HSP 23 /* the handler's stack pointer before its frame's registers, its flags, SS */
#define S_HFL 24
#define S_HSS 25
#define S_TR 26
#define S_LDTR 27
#define S_HOW 28 /* 0 protected mode, 1 real mode, 2 real mode with segments of 4 GiB */
#define S_COUNT 29

#endif
