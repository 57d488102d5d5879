# SPDX-License-Identifier: Apache-2.0
ferry_unit_test(test_gate ferry_dev ferry_mem ferry_base)
