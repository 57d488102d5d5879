# SPDX-License-Identifier: Apache-2.0
include(${CMAKE_CURRENT_LIST_DIR}/ferry_fuzz.cmake)
ferry_fuzz(serial ferry_dev ferry_mem ferry_base)
ferry_fuzz(console ferry_dev ferry_mem ferry_base)
ferry_fuzz(rtc ferry_dev ferry_mem ferry_base)
ferry_fuzz(pm ferry_dev ferry_mem ferry_base)
ferry_fuzz(kernel ferry_load ferry_mem ferry_base)
ferry_fuzz(net ferry_backend ferry_dev ferry_mem ferry_proto ferry_base)
