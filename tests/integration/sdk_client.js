// An application on the official SDK core: its registry work from the first space to the last deletion.
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

async function refused(work) {
    try {
        await work();
        return null;
    } catch (e) {
        return { status: e.httpStatusCode, code: e.errorCode, request: e.requestId };
    }
}

(async () => {
    const out = {}, name = env.NAME;
    out.apps = await call('GET', '/apps', null, { default_app: true });
    out.space = await call('POST', '/apps', { app_name: `水厂_${name}` });
    const app_id = out.space.app_id;
    out.product = await call('POST', '/products', {
        app_id, name: '水泵(1)', device_type: 'Pump', protocol_type: 'MQTT', data_format: 'json',
        service_capabilities: [{
            service_id: 'Pump', service_type: 'Pump', properties: [
                { property_name: 'mode', data_type: 'string', method: 'RW', max_length: 16 }], commands: [],
        }],
    });
    const product_id = out.product.product_id;
    out.listed = await call('GET', '/products', null, { product_name: '水泵(1)', app_id, limit: 50 });
    out.device = await call('POST', '/devices', {
        app_id, product_id, node_id: name, device_name: '一号', auth_info: { auth_type: 'SECRET', timeout: 0 },
    });
    const device = `/devices/${out.device.device_id}`;
    out.devices = await call('GET', '/devices', null, { app_id, device_name: '一号', limit: 10, offset: 0 });
    out.shown = await call('GET', device);
    out.updated = await call('PUT', device, { description: '地下室' });
    out.shadow = await call('PUT', `${device}/shadow`, {
        shadow: [{ service_id: 'Pump', desired: { mode: '自动' }, version: 0 }],
    });
    out.conflict = await refused(() => call('PUT', `${device}/shadow`, {
        shadow: [{ service_id: 'Pump', desired: { mode: 'x' }, version: 0 }],
    }));
    await call('POST', `${device}/freeze`);
    out.frozen = (await call('GET', device)).status;
    await call('POST', `${device}/unfreeze`);
    out.full = await refused(() => call('DELETE', `/apps/${app_id}`));
    await call('DELETE', device);
    await call('DELETE', `/products/${product_id}`, null, { app_id });
    await call('DELETE', `/apps/${app_id}`);
    out.gone = await refused(() => call('GET', device));
    console.log(JSON.stringify(out));
})().catch((e) => {
    console.error(e);
    process.exit(1);
});
