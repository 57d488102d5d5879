# SPDX-License-Identifier: Apache-2.0
ferry_unit_test(test_handover ferry_host)
ferry_unit_test(test_inventory ferry_host)
ferry_unit_test(test_host ferry_host)
ferry_unit_test(test_cli ferry_cli)
