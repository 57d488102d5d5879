# SPDX-License-Identifier: Apache-2.0
ferry_unit_test(test_serial ferry_dev ferry_mem ferry_base)
ferry_unit_test(test_rtc ferry_dev ferry_mem ferry_base)
ferry_unit_test(test_pm ferry_dev ferry_mem ferry_base)
ferry_unit_test(test_load ferry_load ferry_mem ferry_base)
ferry_unit_test(test_acpi ferry_load ferry_mem ferry_base)
include(${CMAKE_CURRENT_LIST_DIR}/guests/guests.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/fuzz/fuzz.cmake)
