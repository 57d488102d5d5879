# SPDX-License-Identifier: Apache-2.0
include(${CMAKE_CURRENT_LIST_DIR}/fuzz/ferry_fuzz.cmake)
ferry_fuzz(vcpu ferry_vm)
ferry_fuzz(irqchips ferry_cpu)
ferry_fuzz(statefile ferry_vm)
ferry_fuzz(control ferry_control)
foreach(name vcpu statefile control)
  target_sources(fuzz_${name} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/fuzz/still.c)
endforeach()
