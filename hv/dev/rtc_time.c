// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/rtc_time.h"

#include <time.h>

#include "hv/base/checked.h"

#define HOUR_PM 0x80
#define ALARM_ANY 0xc0 /* an alarm byte with both high bits set matches always */
#define DAY_S 86400

bool fy_rtc_is_time(uint8_t index)
{
    return index == RTC_SECONDS || index == RTC_MINUTES || index == RTC_HOURS ||
           (index >= RTC_WEEKDAY && index <= RTC_YEAR) || index == RTC_CENTURY;
}

static uint8_t put(const uint8_t *cmos, int v)
{
    return (uint8_t)(cmos[RTC_B] & RTC_B_BINARY ? v : v / 10 << 4 | v % 10);
}

/* The value of a register, or -1 where it is none below `limit`. */
static int get(const uint8_t *cmos, uint8_t v, int limit)
{
    int n = v;
    if (!(cmos[RTC_B] & RTC_B_BINARY)) {
        if (v >> 4 > 9 || (v & 15) > 9)
            return -1;
        n = (v >> 4) * 10 + (v & 15);
    }
    return n < limit ? n : -1;
}

static uint8_t put_hour(const uint8_t *cmos, int hour)
{
    if (cmos[RTC_B] & RTC_B_24H)
        return put(cmos, hour);
    return (uint8_t)(put(cmos, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0));
}

static int get_hour(const uint8_t *cmos, uint8_t v)
{
    if (cmos[RTC_B] & RTC_B_24H)
        return get(cmos, v, 24);
    int hour = get(cmos, v & (uint8_t)~HOUR_PM, 13);
    if (hour < 1)
        return -1;
    return hour % 12 + (v & HOUR_PM ? 12 : 0);
}

void fy_rtc_encode(uint8_t *cmos, int64_t s)
{
    struct tm tm;
    time_t t = (time_t)FY_MAX(FY_MIN(s, RTC_MAX_S), RTC_MIN_S);
    gmtime_r(&t, &tm);
    int year = tm.tm_year + 1900;
    cmos[RTC_SECONDS] = put(cmos, tm.tm_sec);
    cmos[RTC_MINUTES] = put(cmos, tm.tm_min);
    cmos[RTC_HOURS] = put_hour(cmos, tm.tm_hour);
    cmos[RTC_WEEKDAY] = put(cmos, tm.tm_wday + 1);
    cmos[RTC_DAY] = put(cmos, tm.tm_mday);
    cmos[RTC_MONTH] = put(cmos, tm.tm_mon + 1);
    cmos[RTC_YEAR] = put(cmos, year % 100);
    cmos[RTC_CENTURY] = put(cmos, year / 100);
}

int fy_rtc_decode(const uint8_t *cmos, int64_t *s)
{
    int year = get(cmos, cmos[RTC_YEAR], 100);
    int century = get(cmos, cmos[RTC_CENTURY], 100);
    struct tm tm = {
        .tm_sec = get(cmos, cmos[RTC_SECONDS], 60),
        .tm_min = get(cmos, cmos[RTC_MINUTES], 60),
        .tm_hour = get_hour(cmos, cmos[RTC_HOURS]),
        .tm_mday = get(cmos, cmos[RTC_DAY], 32),
        .tm_mon = get(cmos, cmos[RTC_MONTH], 13) - 1,
    };
    if (year < 0 || century < 0 || tm.tm_sec < 0 || tm.tm_min < 0 || tm.tm_hour < 0 || tm.tm_mday < 1 ||
        tm.tm_mon < 0)
        return -1;
    tm.tm_year = century * 100 + year - 1900;
    int day = tm.tm_mday;
    time_t t = timegm(&tm);
    if (tm.tm_mday != day)
        return -1; /* normalised away: the month has no such day */
    *s = t;
    return 0;
}

static bool alarm_byte(const uint8_t *cmos, uint8_t index, uint8_t now)
{
    return (cmos[index] & ALARM_ANY) == ALARM_ANY || cmos[index] == now;
}

/* Seconds from s on in which the alarm surely does not ring; 0: it rings at s. Skips whole hours and minutes.
 */
static int64_t alarm_silence(const uint8_t *cmos, int64_t s)
{
    int day = (int)((s % DAY_S + DAY_S) % DAY_S);
    if (!alarm_byte(cmos, RTC_HOURS_ALARM, put_hour(cmos, day / 3600)))
        return 3600 - day % 3600;
    if (!alarm_byte(cmos, RTC_MINUTES_ALARM, put(cmos, day / 60 % 60)))
        return 60 - day % 60;
    return alarm_byte(cmos, RTC_SECONDS_ALARM, put(cmos, day % 60)) ? 0 : 1;
}

bool fy_rtc_alarm_between(const uint8_t *cmos, int64_t after, int64_t until)
{
    if (until <= after)
        return !alarm_silence(cmos, until);
    /* the alarm knows no date: one day holds every case */
    for (int64_t s = FY_MAX(after + 1, until - DAY_S + 1); s <= until;) {
        int64_t silence = alarm_silence(cmos, s);
        if (!silence)
            return true;
        s += silence;
    }
    return false;
}
