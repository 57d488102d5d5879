# SPDX-License-Identifier: Apache-2.0
ferry_unit_test(test_gate ferry_dev ferry_mem ferry_base)
ferry_unit_test(test_virtio ferry_dev ferry_mem ferry_proto ferry_base)
ferry_unit_test(test_vcon ferry_dev ferry_mem ferry_proto ferry_base)
ferry_unit_test(test_blk ferry_backend ferry_dev ferry_mem ferry_proto ferry_base)
include(${CMAKE_CURRENT_LIST_DIR}/fuzz/ferry_fuzz.cmake)
ferry_fuzz(blk ferry_dev ferry_mem ferry_proto ferry_base)
ferry_unit_test(test_disks ferry_host ferry_define ferry_proto ferry_base)
