import { language } from "./language"

/** What a tenant lets its agents choose in a record from its first day on, for who does not read it. */
const ENGLISH: Record<string, string> = {
  // results
  已接通: "Connected",
  未接通: "Not connected",
  无人接听: "No answer",
  占线: "Busy",
  拒接: "Declined",
  空号: "No such number",
  停机: "Out of service",
  关机: "Switched off",
  稍后联系: "Call back later",
  // intentions
  有意向: "Interested",
  强意向: "Very interested",
  一般: "Undecided",
  无意向: "Not interested",
  待跟进: "To follow up",
  已成交: "Deal closed",
}

/** A result or an intention as it is shown: a tenant's own words stand as they are. What is stored is never another. */
export function chosen(word: string): string {
  return (language.value === "en" && ENGLISH[word]) || word
}

/** What was chosen in a record, as it is shown in one line; empty where nothing was. */
export function choices(record: { result: string | null; intention: string | null } | null): string {
  return [record?.result, record?.intention]
    .filter((word) => !!word)
    .map((word) => chosen(word as string))
    .join(" · ")
}
