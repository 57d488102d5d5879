# SPDX-License-Identifier: Apache-2.0
include(${CMAKE_CURRENT_LIST_DIR}/fuzz/ferry_fuzz.cmake)
ferry_unit_test(test_define ferry_define ferry_proto)
ferry_fuzz(definition ferry_define)
