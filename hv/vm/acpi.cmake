# SPDX-License-Identifier: Apache-2.0
# The kernel loaders and ACPI tables as a library of their own, ferry_load. dsdt.asl, pci.asl and vmgen.asl are compiled to C arrays in
# ${CMAKE_BINARY_DIR}/hv/vm, which acpi.c includes.
set(dsdt_dir ${CMAKE_BINARY_DIR}/hv/vm)
file(MAKE_DIRECTORY ${dsdt_dir})
foreach(table dsdt pci vmgen)
  add_custom_command(
    OUTPUT ${dsdt_dir}/${table}.hex
    COMMAND ${IASL} -vs -we -p ${dsdt_dir}/${table} -tc ${CMAKE_CURRENT_LIST_DIR}/${table}.asl > ${dsdt_dir}/${table}.log
    DEPENDS ${CMAKE_CURRENT_LIST_DIR}/${table}.asl
    COMMENT "iasl ${table}.asl")
endforeach()
add_custom_target(ferry_dsdt DEPENDS ${dsdt_dir}/dsdt.hex ${dsdt_dir}/pci.hex ${dsdt_dir}/vmgen.hex)
ferry_room(load
  SOURCES load.c load_elf.c load_bzimage.c load_multiboot.c multiboot_info.c acpi.c
  LINKS ferry_mem ferry_base)
set_source_files_properties(acpi.c PROPERTIES OBJECT_DEPENDS "${dsdt_dir}/dsdt.hex;${dsdt_dir}/pci.hex;${dsdt_dir}/vmgen.hex")
add_dependencies(ferry_load ferry_dsdt)
