# SPDX-License-Identifier: Apache-2.0
include(${CMAKE_CURRENT_LIST_DIR}/fuzz/ferry_fuzz.cmake)
ferry_fuzz(api ferry_host)
ferry_fuzz(nbd ferry_host)
ferry_unit_test(test_handover ferry_host)
ferry_unit_test(test_inventory ferry_host)
ferry_unit_test(test_host ferry_host)
ferry_unit_test(test_cli ferry_cli)
