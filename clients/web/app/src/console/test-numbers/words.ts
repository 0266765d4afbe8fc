import { learn } from "../../shared/language"

const zh = {
  title: "测试号码",
  about: "“测试中”的线路只能拨打这些号码。它们是自己人的手机，不做脱敏。",
  empty: "还没有测试号码",
  phone: "号码",
  note: "备注（是谁的）",
  add: "添加一行",
  remove: "移除",
  saved: "测试号码已保存",
}

const en: typeof zh = {
  title: "Test numbers",
  about: "Lines under test dial these numbers only. They are your own people's, and shown in full.",
  empty: "No test number yet",
  phone: "Number",
  note: "Note (whose it is)",
  add: "Add a row",
  remove: "Remove",
  saved: "The test numbers were saved",
}

learn("testNumbers", { "zh-CN": zh, en })
