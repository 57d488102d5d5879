// SPDX-License-Identifier: Apache-2.0
/* Private to hv/dev: the RTC's time registers as seconds and back. Pure functions of the CMOS bytes; register
 * B says whether they are BCD or binary, 12 or 24 hours. Times are seconds since 1970 of the guest's RTC. */
#ifndef FERRY_DEV_RTC_TIME_H
#define FERRY_DEV_RTC_TIME_H

#include <stdbool.h>
#include <stdint.h>

enum {
    RTC_SECONDS = 0,
    RTC_SECONDS_ALARM = 1,
    RTC_MINUTES = 2,
    RTC_MINUTES_ALARM = 3,
    RTC_HOURS = 4,
    RTC_HOURS_ALARM = 5,
    RTC_WEEKDAY = 6,
    RTC_DAY = 7,
    RTC_MONTH = 8,
    RTC_YEAR = 9,
    RTC_A = 10,
    RTC_B = 11,
    RTC_C = 12,
    RTC_D = 13,
    RTC_CENTURY = 0x32,
    RTC_CMOS = 128,
};

#define RTC_B_BINARY 0x04
#define RTC_B_24H 0x02

/* Years 0 to 9999, all that the registers can hold. */
#define RTC_MIN_S (-62167219200ll)
#define RTC_MAX_S 253402300799ll

/* True for the registers that hold the time (alarms are not among them). */
bool fy_rtc_is_time(uint8_t index);

/* Write the time registers for `s`, taken into the years 0 to 9999. */
void fy_rtc_encode(uint8_t *cmos, int64_t s);

/* Read them. -1, *s unchanged, when they hold no date (31 February, hour 25, a digit above 9). */
int fy_rtc_decode(const uint8_t *cmos, int64_t *s);

/* Whether the alarm registers match any second in (after, until]; every second where `until` is not above
 * `after`, that is where the clock was set, only `until` itself. */
bool fy_rtc_alarm_between(const uint8_t *cmos, int64_t after, int64_t until);

#endif
