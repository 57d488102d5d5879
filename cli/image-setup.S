# SPDX-License-Identifier: Apache-2.0
    .section .rodata
    .globl image_setup, image_setup_end
image_setup:
    .incbin "cli/image-setup.sh"
image_setup_end:
    .byte 0
    .section .note.GNU-stack, "", @progbits
