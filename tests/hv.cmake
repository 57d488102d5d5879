# SPDX-License-Identifier: Apache-2.0
add_executable(test_engine engine/test_engine.c engine/hvproc.c engine/tiny.S)
target_include_directories(test_engine PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
target_link_libraries(test_engine PRIVATE ferry_control_client ferry_proto ferry_base PkgConfig::CMOCKA)
set_target_properties(test_engine PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_test(NAME test_engine COMMAND test_engine $<TARGET_FILE:ferry-hv>)
set_tests_properties(test_engine PROPERTIES LABELS engine TIMEOUT 300)
