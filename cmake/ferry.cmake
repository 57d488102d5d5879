# SPDX-License-Identifier: Apache-2.0
# ferry_room(NAME SOURCES... LINKS...): one static library per room. Includes are written from the
# repository's root ("hv/base/err.h"); which room may include which is held by tests/lint/layers.py.
function(ferry_room name)
  cmake_parse_arguments(R "" "" "SOURCES;LINKS" ${ARGN})
  add_library(ferry_${name} STATIC ${R_SOURCES})
  target_include_directories(ferry_${name} PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
  target_link_libraries(ferry_${name} PUBLIC ${R_LINKS})
endfunction()

# ferry_program(NAME SOURCES... LINKS...): an executable in ${CMAKE_BINARY_DIR}/bin.
function(ferry_program name)
  cmake_parse_arguments(R "" "" "SOURCES;LINKS" ${ARGN})
  add_executable(${name} ${R_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
  target_link_libraries(${name} PRIVATE ${R_LINKS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endfunction()

# ferry_unit_test(NAME LINKS...): tests/unit/NAME.c as a cmocka program, run by ctest with label unit.
function(ferry_unit_test name)
  add_executable(${name} ${CMAKE_SOURCE_DIR}/tests/unit/${name}.c)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
  target_link_libraries(${name} PRIVATE ${ARGN} PkgConfig::CMOCKA)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS unit TIMEOUT 300)
endfunction()
