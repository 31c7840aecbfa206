// NNI's manager with two trials, of which the second asks for its parameters first; prints who got which.
global.nniUnitTest = true; // NNI's own settings of tests, without a command line and log files
require("common/globals/unittest");
const { V3asV1 } = require("training_service/v3/compat");

const ids = ["one", "two"];
const given = {};
let ask;
const v3 = {
  createTrial: async () => ids.shift(),
  onRequestParameter: (callback) => (ask = callback),
  sendParameter: async (trial, parameter) => (given[trial] = parameter),
  start: async () => [{ id: "here" }],
};
for (const name of ["init", "onMetric", "onTrialStart", "onTrialEnd", "onEnvironmentUpdate", "uploadDirectory"]) {
  v3[name] = async () => {};
}
const service = Object.assign(Object.create(V3asV1.prototype), {
  v3,
  config: {},
  trialJobs: {},
  parameters: [],
  allocatedParameters: new Map(),
  startDeferred: { promise: Promise.resolve(), resolve: () => {} },
});

async function main() {
  await service.start();
  for (const id of ["one", "two"]) {
    await service.submitTrialJob({ sequenceId: 0, hyperParameters: { value: `of ${id}`, index: 0 } });
  }
  await ask("two");
  await ask("one");
  console.log(JSON.stringify(given));
}
main();
