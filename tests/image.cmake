# SPDX-License-Identifier: Apache-2.0
ferry_unit_test(test_image ferry_image ferry_base)
