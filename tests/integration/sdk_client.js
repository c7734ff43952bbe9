// An application on the official SDK core: lists the spaces, makes a product, asks for a device that is not there.
const core = require('@huaweicloud/huaweicloud-sdk-core');
const { BaseCredentials } = require('@huaweicloud/huaweicloud-sdk-core/auth/BaseCredentials');
const { ClientBuilder } = require('@huaweicloud/huaweicloud-sdk-core/ClientBuilder');
const { Region } = require('@huaweicloud/huaweicloud-sdk-core/region/region');
const env = process.env;

const credentials = new core.BasicCredentials().withAk(env.CAUSEWAY_AK).withSk(env.CAUSEWAY_SK)
    .withIamEndpoint(env.CAUSEWAY_REST_URL);
if (env.WITH_PROJECT === '1') credentials.withProjectId(env.CAUSEWAY_PROJECT_ID);
if (env.DERIVED === '1')
    credentials.withDerivedPredicate((r) => BaseCredentials.getDefaultDerivedPredicate(r));

const client = new ClientBuilder((c) => c, 'BasicCredentials').withCredential(credentials)
    .withRegion(new Region(env.CAUSEWAY_REGION, env.CAUSEWAY_REST_URL))
    .withDerivedAuthServiceName('iotdm').build();

function call(method, url, data, queryParams) {
    const options = {
        method, url: `/v5/iot/{project_id}${url}`, contentType: 'application/json',
        queryParams: queryParams || {}, pathParams: {}, headers: {},
    };
    if (data) options.data = data;
    return client.sendRequest(options);
}

(async () => {
    const out = {};
    out.apps = await call('GET', '/apps', null, { default_app: true });
    out.product = await call('POST', '/products', {
        name: '水泵(1)', device_type: 'Pump', protocol_type: 'MQTT', data_format: 'json',
        service_capabilities: [],
    });
    out.listed = await call('GET', '/products', null, { product_name: '水泵(1)', limit: 50 });
    try {
        await call('GET', '/devices/nobody_here');
    } catch (e) {
        out.error = { status: e.httpStatusCode, code: e.errorCode };
    }
    console.log(JSON.stringify(out));
})().catch((e) => {
    console.error(e);
    process.exit(1);
});
