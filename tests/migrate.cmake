# SPDX-License-Identifier: Apache-2.0
ferry_unit_test(test_stream ferry_migrate)
target_compile_definitions(test_stream PRIVATE FERRY_GOLDEN="${CMAKE_SOURCE_DIR}/tests/golden")
ferry_unit_test(test_migrate ferry_migrate)
ferry_unit_test(test_wordpack ferry_migrate)
ferry_unit_test(test_tls_gcm ferry_migrate)
find_package(Python3 COMPONENTS Interpreter)
add_test(NAME golden_stream
         COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/golden/parse_stream.py --self-check ${CMAKE_SOURCE_DIR}/tests/golden)
set_tests_properties(golden_stream PROPERTIES LABELS unit)
ferry_unit_test(test_pump ferry_migrate)
include(${CMAKE_CURRENT_LIST_DIR}/fuzz/ferry_fuzz.cmake)
ferry_fuzz(records ferry_migrate)
ferry_fuzz(wordpack ferry_migrate)
