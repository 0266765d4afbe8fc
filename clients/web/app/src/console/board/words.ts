import { learn } from "../../shared/language"

const zh = {
  title: "实时看板",
  live: "实时",
  stale: "数据停在 {time}，正在重试",
  states: { talking: "通话中", calling: "呼叫中", idle: "空闲", offline: "离线" },
  today: { calls: "今日拨打", connected: "今日接通", talk: "今日通话时长", rate: "接通占拨打 {rate}" },
  assumed: "含人工报告 {count}",
  agent: "坐席",
  state: "状态",
  call: "当前通话",
  phone: "手机",
  phones: { online: "在线", offline: "离线", none: "未绑定" },
  calls: "拨打",
  connected: "接通",
  talk: "通话时长",
  sort: "排序",
  by: { name: "按姓名", state: "忙的在前", calls: "拨打多的在前" },
  empty: "这里还没有坐席",
  emptyHint: "在“成员与团队”里新增坐席，或换一个团队。",
  none: "没有处于此状态的坐席",
  some: "显示最忙的 {shown} 人，共 {total} 人；选择一个团队可看全部。",
}

const en: typeof zh = {
  title: "Live board",
  live: "Live",
  stale: "As of {time}; trying again",
  states: { talking: "Talking", calling: "Calling", idle: "Idle", offline: "Offline" },
  today: { calls: "Dials today", connected: "Answered today", talk: "Talk today", rate: "{rate} of dials" },
  assumed: "{count} of them told by hand",
  agent: "Agent",
  state: "State",
  call: "Call",
  phone: "Phone",
  phones: { online: "Online", offline: "Offline", none: "None bound" },
  calls: "Dials",
  connected: "Answered",
  talk: "Talk",
  sort: "Order",
  by: { name: "By name", state: "Busy first", calls: "Most dials first" },
  empty: "There are no agents here yet",
  emptyHint: "Add agents under People and teams, or choose another team.",
  none: "No agent is in this state",
  some: "The busiest {shown} of {total} are shown; choose a team to see all of it.",
}

learn("board", { "zh-CN": zh, en })
